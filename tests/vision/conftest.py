"""Fixtures of the vision tests: one thread, and image folders in ImageNet's layout."""

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """Return a folder of two classes, each with four training and two held-out images."""
    return pictures(tmp_path_factory.mktemp("imagenet"), 4, 2, (300, 420))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Return a folder of two classes, each with eight small training and five held-out images."""
    return pictures(tmp_path_factory.mktemp("small"), 8, 5, (24, 20))


def pictures(folder, trained, held_out, size):
    """Write images of noise into ``folder`` in ImageNet's layout."""
    noise = np.random.default_rng(0)
    for split, count in (("train", trained), ("val", held_out)):
        for label in ("n01", "n02"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 255, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    return folder
