"""Fixtures of the vision tests: one thread, and folders laid out as ImageNet is."""

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """Two classes with four images to train on and two held out."""
    return pictures(tmp_path_factory.mktemp("imagenet"), 4, 2, (300, 420))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Two classes with eight small images to train on and five held out."""
    return pictures(tmp_path_factory.mktemp("small"), 8, 5, (24, 20))


def pictures(folder, trained, held_out, size):
    """Noise, laid out as ImageNet is."""
    noise = np.random.default_rng(0)
    for split, count in (("train", trained), ("val", held_out)):
        for label in ("n01", "n02"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 255, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    return folder
