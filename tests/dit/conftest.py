"""Fixtures of the diffusion tests: a single thread, image files, a VAE, and encoded latents."""

import shutil

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Directory of a run that encoded the digits."""
    from . import tiny

    return tiny.encoded(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Folder of a few image files in ImageNet's layout."""
    from . import small

    return small.pictures(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    """Folder of a small AutoencoderKL."""
    from . import small

    return small.autoencoder(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="session")
def encoding_run(images, vae, tmp_path_factory):
    """Directory of a run that encoded ``images`` with ``vae`` without interruption."""
    from . import small

    directory = tmp_path_factory.mktemp("run")
    small.encoded(directory, images, vae)
    return directory


@pytest.fixture
def encoding_copy(encoding_run, tmp_path):
    """A copy of ``encoding_run`` that a test may damage."""
    return shutil.copytree(encoding_run, tmp_path / "run")
