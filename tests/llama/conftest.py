"""Fixtures of the language-model tests: a single thread, and tokenized glosses."""

import shutil

import pytest
import torch

from .tiny import tokenized


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def glosses_run(tmp_path_factory):
    """Directory of a run that tokenized the glosses."""
    directory = tmp_path_factory.mktemp("glosses")
    tokenized(directory)
    return directory


@pytest.fixture
def glosses_copy(glosses_run, tmp_path):
    """A copy of ``glosses_run`` that a test may damage."""
    return shutil.copytree(glosses_run, tmp_path / "tokens-run")
