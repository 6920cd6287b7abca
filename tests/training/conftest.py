"""Fixtures of the training tests: one thread, runs to compare with, runs of two processes."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from .problem import Cut, CutAt, Trained, trained
from .processes import run

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The run of ``CONFIG`` from the first step to the last without a break."""
    return trained(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A folder of runs that two processes have trained, one after the other, as in one job."""
    folder = tmp_path_factory.mktemp("two")
    run(
        SCRIPT,
        folder,
        "train",
        *["own", "dyt", "early", "late", "cut", "timed", "asked", "lost", "normed", "scaled"],
        "fp16",
        *["sharded", "sharded-dyt", "sharded-cut", "sharded-asked", "sharded-full"],
        *["sharded-normed", "sharded-scaled", "sharded-fp16", "left-alone"],
    )
    return folder


@pytest.fixture(scope="session")
def resumed(pair, tmp_path_factory):
    """A folder of runs that two processes went on with, from copies of what others had left."""
    folder = tmp_path_factory.mktemp("resumed")
    shutil.copytree(pair / "cut", folder / "cut")
    shutil.copytree(pair / "asked", folder / "asked")
    shutil.copytree(pair / "sharded-cut", folder / "sharded-cut")
    shutil.copytree(pair / "sharded-asked", folder / "sharded-asked")
    shutil.copytree(pair / "sharded-full", folder / "sharded-full")
    damaged = Trained(directory=shutil.copytree(pair / "sharded", folder / "sharded-damaged"))
    _spoil_a_piece_of_the_second(damaged.newest)
    with pytest.raises(Cut):
        trained(folder / "sharded-from-file", loss=CutAt(7))
    with pytest.raises(Cut):
        trained(folder / "sharded-foreign", where={"signature": "another"}, loss=CutAt(7))
    run(SCRIPT, folder, "resume", *[path.name for path in folder.iterdir()])
    return folder


def _spoil_a_piece_of_the_second(checkpoint):
    """Overwrite something that the first of two processes has no need to read."""
    places = pickle.loads((checkpoint / ".metadata").read_bytes()).storage_data
    place = next(p for index, p in places.items() if index.fqn == "model.0.weight" and index.index)
    with (checkpoint / place.relative_path).open("r+b") as file:
        file.seek(place.offset)
        file.write(b"0" * place.length)
