"""What each of two processes does for test_shards.py, which starts it.

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


class Unsendable(Exception):
    """An error that another process cannot be given as it is."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def write(name, path):
    path.write_text(f"content of {name}")


def wrong(name, path):
    """The second process fails in the second round."""
    write(name, path)
    if name == "3.txt":
        raise ValueError(f"{name} is wrong")


def odd(name, path):
    write(name, path)
    if name == "3.txt":
        raise Unsendable("very", "odd")


def asked(name, path):
    """The second process is asked to stop, in the first round."""
    write(name, path)
    if name == "1.txt":
        os.kill(os.getpid(), PREEMPTION_SIGNAL)
        while not stop_signal():  # another thread notes it
            time.sleep(0.001)


def slow(name, path):
    """The second process waits longer for the first than tensors are waited for."""
    write(name, path)
    if name == "4.txt":
        time.sleep(2)


def lose():
    """Only the first process owns a run, and can lose it."""
    if RANK == 0:
        raise RuntimeError("another process is at work")


def attempt(folder, make=write, **where):
    """How it ended."""
    folder.mkdir(exist_ok=True)
    name = f"{folder.name}-{make.__name__}-{len(where)}"
    context = Context(directory=folder, signature=name, rank=RANK, world_size=2, **where)
    try:
        with watch_signals(600, print), process_group(context):
            sums = make_files(context, folder / "files", NAMES, make)
            return f"{len(set(sums.values()))} files"
    except (Interrupted, RuntimeError, Unsendable, ValueError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    said = [
        attempt(folder / "whole"),
        attempt(folder / "wrong", wrong),
        attempt(folder / "wrong"),
        attempt(folder / "odd", odd),
        attempt(folder / "asked", asked),
        attempt(folder / "asked"),
        attempt(folder / "lost", check_ownership=lose),
    ]
    hasty = functools.partial(dist.init_process_group, timeout=timedelta(seconds=1))
    with mock.patch.object(dist, "init_process_group", hasty):
        said.append(attempt(folder / "slow", slow))
    (folder / f"said-{RANK}.txt").write_text("\n".join(said))
    sys.stdout.flush()
    os._exit(0)
