"""File tasks of test_file_tasks.py with two processes; started twice by processes.py.

python two_processes_file_tasks.py FOLDER
"""

import functools
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import torch.distributed as dist

from matched.signals import PREEMPTION_SIGNAL, Interrupted, stop_signal, watch_signals
from matched.task import Context
from matched.training.distributed import process_group
from matched.training.file_tasks import make_files

RANK = int(os.environ["RANK"])
NAMES = [f"{i}.txt" for i in range(5)]


class Unpicklable(Exception):
    """An error that cannot be pickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def write(name, path):
    path.write_text(f"content of {name}")


def wrong(name, path):
    """Rank 1 fails in the second round."""
    write(name, path)
    if name == "3.txt":
        raise ValueError(f"{name} is wrong")


def unpicklable(name, path):
    write(name, path)
    if name == "3.txt":
        raise Unpicklable("very", "odd")


def preempted(name, path):
    """Rank 1 receives the preemption signal in the first round."""
    write(name, path)
    if name == "1.txt":
        os.kill(os.getpid(), PREEMPTION_SIGNAL)
        while not stop_signal():  # another thread handles it
            time.sleep(0.001)


def slow(name, path):
    """Rank 1 waits longer for rank 0 than the timeout of the process group of tensors."""
    write(name, path)
    if name == "4.txt":
        time.sleep(2)


def lose():
    """Only rank 0 owns a run, and can lose it."""
    if RANK == 0:
        raise RuntimeError("another process is at work")


def attempt(folder, make=write, **where):
    """Make the files and return how it ended."""
    folder.mkdir(exist_ok=True)
    name = f"{folder.name}-{make.__name__}-{len(where)}"
    context = Context(directory=folder, signature=name, rank=RANK, world_size=2, **where)
    try:
        with watch_signals(600, print), process_group(context):
            sums = make_files(context, folder / "files", NAMES, make)
            return f"{len(set(sums.values()))} files"
    except (Interrupted, RuntimeError, Unpicklable, ValueError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    endings = [
        attempt(folder / "whole"),
        attempt(folder / "wrong", wrong),
        attempt(folder / "wrong"),
        attempt(folder / "unpicklable", unpicklable),
        attempt(folder / "preempted", preempted),
        attempt(folder / "preempted"),
        attempt(folder / "lost", check_ownership=lose),
    ]
    short_timeout = functools.partial(dist.init_process_group, timeout=timedelta(seconds=1))
    with mock.patch.object(dist, "init_process_group", short_timeout):
        endings.append(attempt(folder / "slow", slow))
    (folder / f"endings-{RANK}.txt").write_text("\n".join(endings))
    sys.stdout.flush()
    os._exit(0)
