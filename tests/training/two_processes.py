"""What each of two processes does for the tests; started by processes.py.

python two_processes.py FOLDER train|resume RUN...
"""

import errno
import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from problem import (
    CONFIG,
    DYT,
    FEATURES,
    AskedAt,
    Cut,
    CutAt,
    Scaled,
    context,
    grouped,
    learner,
    square,
)
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

from matched.signals import Interrupted, watch_signals
from matched.training import fit
from matched.training.distributed import process_group

RANK = int(os.environ["RANK"])
FP16 = replace(CONFIG, precision="fp16")
HALVES = replace(CONFIG, micro_batch=2)  # two micro-batches a step


def train(directory, name, *, config=CONFIG, linger=0.0, changes=dict, **where):
    """Train a run; said/NAME-RANK.txt gets its log, and how it ended if it did not end well."""
    where = context(directory, rank=RANK, local_rank=RANK, world_size=2, **where)
    said = directory.parent / "said"
    said.mkdir(exist_ok=True)
    handler = logging.FileHandler(said / f"{name}-{RANK}.txt")
    logging.getLogger("matched").addHandler(handler)
    try:
        # The runs of a job meet under their signatures; those of the tests share one. Nobody but
        # the process itself asks it to stop.
        with watch_signals(600, print), process_group(replace(where, signature=name)) as device:
            fit(where, config, learner(config, **changes()), device)
            if RANK == 0:
                time.sleep(linger)  # as if writing the last checkpoint took long
    except (Interrupted, OSError, RuntimeError, ValueError) as error:
        logging.getLogger("matched").info("ended by %s: %s", type(error).__name__, error)
    finally:
        logging.getLogger("matched").removeHandler(handler)


class LeaseLostError(RuntimeError):
    """As ``matched.lease`` raises it."""


def lose():
    """Only the first process owns a run, and can lose it."""
    if RANK == 0:
        raise LeaseLostError("another process is at work")


def overflowing():
    """A loss whose gradients overflow fp16 in step 1, and in step 7 on one process alone."""
    seen = []

    def loss(model, batch):
        seen.append(batch)
        large = len(seen) == 1 or (len(seen) == 7 and RANK == 1)
        return square(model, batch) * (2**12 if large else 1)

    return {"loss": loss}


def batch_normed():
    return grouped(nn.Sequential(nn.Linear(FEATURES, 1), nn.BatchNorm1d(1)))


def told_buffers():
    """Batch norm, whose running statistics are evaluated in the average of the weights."""

    def evaluate(model):
        told = [buffer.double().sum().item() for buffer in model.buffers()]
        logging.getLogger("matched").info("buffers %s", told)
        return {"error": 1.0}

    return batch_normed() | {"evaluate": evaluate}


def scaled():
    return grouped(Scaled())


def asked():
    """One process is asked to stop, in step 7."""
    return {"loss": AskedAt(6)} if RANK == 1 else {}


def full_disk():
    """The second part of a checkpoint does not fit on the disk when step 10 is saved."""
    write, calls = FileSystemWriter.write_data, []

    def write_data(self, *args):
        calls.append(self)
        if len(calls) < 2:
            return write(self, *args)
        FileSystemWriter.write_data = write
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:  # as torch does
            raise RuntimeError("[enforce fail at inline_container.cc:672] .") from error

    if RANK == 1:
        FileSystemWriter.write_data = write_data
    return {}


def run(**settings):
    """A run in a folder of its name, which both processes see."""
    return lambda folder, name: train(folder / name, name, **settings)


def apart(**settings):
    """A run in folders of their own, which show who writes."""
    return lambda folder, name: train(folder / f"{name}-{RANK}", name, **settings)


def cut():
    """One micro-batch a step: in step 8, after the checkpoint of step 5."""
    return {"loss": CutAt(3)}


def dyt():
    return {"norm": DYT}


def others():
    """Other first weights, so that whatever a checkpoint fails to restore shows."""
    return {"weights": 99}


def left_alone(folder, name):
    """The first process fails in step 4, and has to end while the other is still in step 3."""
    first = folder / "pid"
    if RANK == 0:
        first.write_text(str(os.getpid()))

    def evaluate(model):
        if RANK == 1:
            (folder / "said" / name).write_text(f"ended first: {gone(int(first.read_text()))}")
        return {"error": 1.0}

    loss = CutAt(1) if RANK == 0 else square  # after 3 micro-batches, one a step
    train(folder / name, name, changes=lambda: {"evaluate": evaluate, "loss": loss})


def gone(pid, seconds=15):
    """Whether that process ends within so many seconds; its parent may not have noticed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


RUNS = {
    "own": apart(),
    "dyt": apart(changes=dyt),
    "early": apart(linger=0.5),
    "late": apart(changes=others),
    "cut": run(changes=cut),
    "timed": run(checkpoint_steps=99, checkpoint_minutes=0.0),
    "asked": run(changes=asked),
    "lost": run(check_ownership=lose),
    "normed": run(changes=told_buffers),
    "sharded": run(shard=True),
    "sharded-dyt": run(shard=True, changes=dyt),
    "sharded-cut": run(shard=True, changes=cut),
    "sharded-asked": run(shard=True, changes=asked),
    "sharded-full": run(shard=True, changes=full_disk),
    "sharded-normed": run(shard=True, changes=batch_normed),
    "scaled": run(config=HALVES, changes=scaled),
    "sharded-scaled": run(config=HALVES, shard=True, changes=scaled),
    "fp16": run(config=FP16, changes=overflowing),
    "sharded-fp16": run(config=FP16, shard=True, changes=overflowing),
    "left-alone": left_alone,
}


def resume(folder, name):
    """Go on with a run that somebody has left in a folder of this name."""
    train(folder / name, name, shard=name.startswith("sharded"), changes=others)


if __name__ == "__main__":
    logging.getLogger("matched").setLevel("INFO")
    folder, verb, *names = sys.argv[1:]
    for name in names:
        with suppress(Cut):
            (resume if verb == "resume" else RUNS[name])(Path(folder), name)
    sys.stdout.flush()
    # As a job ends whose runs have failed: a collective that another has left may be under way.
    os._exit(0)
