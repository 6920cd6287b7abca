"""Fixtures of the training tests: one thread, and a run to compare with."""

import pytest
import torch

from .problem import trained


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The run of ``CONFIG`` from the first step to the last without a break."""
    return trained(tmp_path_factory.mktemp("undisturbed"))
