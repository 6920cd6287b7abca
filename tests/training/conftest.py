"""Fixtures of the training tests: reference runs in one process and in two."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from ..processes import run
from .problem import Crash, CrashAt, TrainedRun, train

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The run of ``CONFIG`` from the first step to the last without an interruption."""
    return train(tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, worker_id):
    """Return ``make_once(name, fill)``, a folder that the first worker of pytest-xdist fills."""
    own = tmp_path_factory.getbasetemp()
    base = own if worker_id == "master" else own.parent

    def make(name, fill):
        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def two_processes(make_once):
    """A folder of runs trained by two processes, one after the other, as in one job."""
    return make_once("two", _train)


def _train(folder):
    run(
        SCRIPT,
        folder,
        "train",
        *["own", "dyt", "early", "late", "crashed", "timed", "preempted", "lost", "batchnorm"],
        *["scaled", "fp16", "files"],
        *["sharded", "sharded-dyt", "sharded-crashed", "sharded-preempted", "sharded-full"],
        *["sharded-batchnorm", "sharded-scaled", "sharded-fp16"],
        *["sharded-async", "sharded-async-crashed", "sharded-async-preempted"],
        *["sharded-async-full", "sharded-async-lost", "sharded-async-changed", "left-alone"],
    )


@pytest.fixture(scope="session")
def resumed(two_processes, make_once):
    """A folder of runs that two processes resumed, from copies of interrupted ones."""
    return make_once("resumed", lambda folder: _resume(two_processes, folder))


def _resume(two_processes, folder):
    for name in (
        *("crashed", "preempted", "sharded-crashed", "sharded-preempted", "sharded-full"),
        *("sharded-async-crashed", "sharded-async-preempted", "sharded-async-full"),
    ):
        shutil.copytree(two_processes / name, folder / name)
    damaged = shutil.copytree(two_processes / "sharded", folder / "sharded-damaged")
    _damage_part_of_rank1(TrainedRun(directory=damaged).newest)
    with pytest.raises(Crash):
        train(folder / "sharded-from-file", loss=CrashAt(7))
    with pytest.raises(Crash):
        train(folder / "sharded-foreign", where={"signature": "another"}, loss=CrashAt(7))
    run(SCRIPT, folder, "resume", *[path.name for path in folder.iterdir()])


def _damage_part_of_rank1(checkpoint):
    """Overwrite a part of a tensor that rank 0 does not read."""
    storage = pickle.loads((checkpoint / ".metadata").read_bytes()).storage_data
    part = next(s for index, s in storage.items() if index.fqn == "model.0.weight" and index.index)
    with (checkpoint / part.relative_path).open("r+b") as file:
        file.seek(part.offset)
        file.write(b"0" * part.length)
