"""Training runs of the tests with two processes; started twice by processes.py.

python two_processes.py FOLDER train|resume RUN...
"""

import errno
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from problem import (
    CONFIG,
    DYT,
    FEATURES,
    Crash,
    CrashAt,
    PreemptAt,
    Scaled,
    context,
    grouped,
    learner,
    mse,
)
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

from matched.signals import Interrupted, watch_signals
from matched.training import file_tasks, fit
from matched.training.distributed import process_group

RANK = int(os.environ["RANK"])
FP16 = replace(CONFIG, precision="fp16")
TWO_MICRO_BATCHES = replace(CONFIG, micro_batch=2)


def train(directory, name, *, config=CONFIG, delay=0.0, changes=dict, **where):
    """Train a run; logs/NAME-RANK.txt gets its log, and the error that ended it, if any."""
    where = context(directory, rank=RANK, local_rank=RANK, world_size=2, **where)
    logs = directory.parent / "logs"
    logs.mkdir(exist_ok=True)
    handler = logging.FileHandler(logs / f"{name}-{RANK}.txt")
    logging.getLogger("matched").addHandler(handler)
    try:
        # process_group tells the runs of a job apart by signature, and all runs of these tests have
        # the same one. No other process sends stop signals.
        with watch_signals(600, print), process_group(replace(where, signature=name)) as device:
            fit(where, config, learner(config, **changes()), device)
            if RANK == 0:
                time.sleep(delay)  # as if writing the last checkpoint took long
    except (Interrupted, OSError, RuntimeError, ValueError) as error:
        logging.getLogger("matched").info("ended by %s: %s", type(error).__name__, error)
    finally:
        logging.getLogger("matched").removeHandler(handler)


class LeaseLostError(RuntimeError):
    """Stands for ``matched.lease.LeaseLostError``."""


def lose():
    """Only rank 0 owns a run, and can lose it."""
    if RANK == 0:
        raise LeaseLostError("another process is at work")


def lose_in_thread():
    """As ``lose``, when the thread that writes a checkpoint is about to complete it."""
    if threading.current_thread() is not threading.main_thread():
        lose()


def slow_disk():
    """Parts of checkpoints are written while the next steps change the weights."""
    write = FileSystemWriter.write_data

    def write_data(self, *args):
        time.sleep(0.3)
        return write(self, *args)

    FileSystemWriter.write_data = write_data
    return {}


def overflowing():
    """A loss whose gradients overflow fp16 in step 1, and in step 7 on rank 1 only."""
    batches = []

    def loss(model, batch):
        batches.append(batch)
        large = len(batches) == 1 or (len(batches) == 7 and RANK == 1)
        return mse(model, batch) * (2**12 if large else 1)

    return {"loss": loss}


def batch_norm():
    return grouped(nn.Sequential(nn.Linear(FEATURES, 1), nn.BatchNorm1d(1)))


def logged_buffers():
    """Batch norm; the evaluation logs the running statistics of the EMA."""

    def evaluate(model):
        values = [buffer.double().sum().item() for buffer in model.buffers()]
        logging.getLogger("matched").info("buffers %s", values)
        return {"error": 1.0}

    return batch_norm() | {"evaluate": evaluate}


def scaled():
    return grouped(Scaled())


def preempted():
    """Rank 1 receives the preemption signal in step 7."""
    return {"loss": PreemptAt(6)} if RANK == 1 else {}


def full_disk():
    """Rank 1's part of a checkpoint does not fit on the disk when step 10 is saved."""
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
    """A run in the folder NAME, which both processes share."""
    return lambda folder, name: train(folder / name, name, **settings)


def run_separately(**settings):
    """A run in the folders NAME-RANK, one for each process, to see which process writes."""
    return lambda folder, name: train(folder / f"{name}-{RANK}", name, **settings)


def crashed():
    """One micro-batch per step: in step 8, after the checkpoint of step 5."""
    return {"loss": CrashAt(3)}


def dyt():
    return {"norm": DYT}


def other_weights():
    """Other initial weights, to detect anything that the checkpoint does not restore."""
    return {"weights": 99}


def left_alone(folder, name):
    """Rank 0 fails in step 4, and has to exit while rank 1 is still in step 3."""
    pid_file = folder / "pid"
    if RANK == 0:
        pid_file.write_text(str(os.getpid()))

    def evaluate(model):
        if RANK == 1:
            exited = has_exited(int(pid_file.read_text()))
            (folder / "logs" / name).write_text(f"rank 0 exited first: {exited}")
        return {"error": 1.0}

    loss = CrashAt(1) if RANK == 0 else mse  # after 3 micro-batches, one per step
    train(folder / name, name, changes=lambda: {"evaluate": evaluate, "loss": loss})


def has_exited(pid, seconds=15):
    """True if the process exits within ``seconds``; its parent may not have reaped it yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def make_files(folder, name):
    """Make 5 files, an odd number, in two processes."""
    names = [f"{number}.txt" for number in range(5)]
    place = context(folder / name, rank=RANK, local_rank=RANK, world_size=2, signature=name)
    made = []

    def make(name, path):
        made.append(name)
        path.write_text(f"content of {name}")

    with process_group(place):
        sums = file_tasks.make_files(place, folder / name / "files", names, make)
        (folder / name / f"made-{RANK}.txt").write_text(f"{made} {len(set(sums.values()))}")


RUNS = {
    "own": run_separately(),
    "dyt": run_separately(changes=dyt),
    "early": run_separately(delay=0.5),
    "late": run_separately(changes=other_weights),
    "crashed": run(changes=crashed),
    "timed": run(checkpoint_steps=99, checkpoint_minutes=0.0),
    "preempted": run(changes=preempted),
    "lost": run(check_ownership=lose),
    "batchnorm": run(changes=logged_buffers),
    "sharded": run(shard=True),
    "sharded-dyt": run(shard=True, changes=dyt),
    "sharded-crashed": run(shard=True, changes=crashed),
    "sharded-preempted": run(shard=True, changes=preempted),
    "sharded-full": run(shard=True, changes=full_disk),
    "sharded-batchnorm": run(shard=True, changes=batch_norm),
    "sharded-async": run(shard=True, async_checkpoints=True),
    "sharded-async-crashed": run(shard=True, async_checkpoints=True, changes=crashed),
    "sharded-async-preempted": run(shard=True, async_checkpoints=True, changes=preempted),
    "sharded-async-full": run(shard=True, async_checkpoints=True, changes=full_disk),
    "sharded-async-lost": run(shard=True, async_checkpoints=True, check_ownership=lose_in_thread),
    "sharded-async-changed": run(shard=True, async_checkpoints=True, changes=slow_disk),
    "scaled": run(config=TWO_MICRO_BATCHES, changes=scaled),
    "sharded-scaled": run(config=TWO_MICRO_BATCHES, shard=True, changes=scaled),
    "fp16": run(config=FP16, changes=overflowing),
    "sharded-fp16": run(config=FP16, shard=True, changes=overflowing),
    "files": make_files,
    "left-alone": left_alone,
}


def resume(folder, name):
    """Resume the run in the folder NAME."""
    settings = {"shard": "sharded" in name, "async_checkpoints": "async" in name}
    train(folder / name, name, changes=other_weights, **settings)


if __name__ == "__main__":
    logging.getLogger("matched").setLevel("INFO")
    folder, command, *names = sys.argv[1:]
    for name in names:
        with suppress(Crash):
            (resume if command == "resume" else RUNS[name])(Path(folder), name)
    sys.stdout.flush()
    # A job whose runs have failed exits in this way: a collective that another process has left
    # may be pending.
    os._exit(0)
