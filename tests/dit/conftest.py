"""Fixtures of the diffusion tests: one thread, and what encodings leave."""

import shutil

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


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of a few files, laid out as ImageNet is."""
    from . import small

    return small.pictures(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    """A folder with a small autoencoder."""
    from . import small

    return small.autoencoder(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="session")
def whole(images, vae, tmp_path_factory):
    """The directory of a run that has encoded these, undisturbed."""
    from . import small

    directory = tmp_path_factory.mktemp("whole")
    small.encoded(directory, images, vae)
    return directory


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(whole, tmp_path / "run")
