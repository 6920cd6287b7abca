"""Fixtures of the DNA tests: one thread, and a prepared synthetic genome with its tasks."""

import logging

import pytest
import torch

from dyt_hyenadna import preparation
from dyt_hyenadna.preparation_config import Preparation

from .chain import run


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def harness_log(caplog, monkeypatch):
    """Warnings of the harness's logger."""
    monkeypatch.setattr(logging.getLogger("matched"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="matched")
    return caplog


@pytest.fixture(scope="session")
def genome(tmp_path_factory):
    """Return the directory of a preparation of the synthetic genome."""
    folder = tmp_path_factory.mktemp("genome") / "run"
    return run(preparation.prepare, folder, Preparation(data="synthetic-genome"))[1]
