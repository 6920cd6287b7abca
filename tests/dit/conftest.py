"""Fixtures of the diffusion tests: one thread."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The directory of a run that has encoded the digits."""
    from . import tiny

    return tiny.encoded(tmp_path_factory.mktemp("digits"))
