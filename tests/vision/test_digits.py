"""The embedded digits: images and labels, split, normalization, augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dyt_vision import transforms
from dyt_vision.image_data import Digits
from matched.training import reseed

from .tiny import SMOKE, TINY_VIT, loaded


@pytest.fixture(scope="module")
def data():
    return loaded(TINY_VIT)


def test_digits_split_is_1437_train_360_held_out(data):
    assert (len(data.train), len(data.held_out), data.classes) == (1437, 360, 10)


def test_digits_items_are_rgb_image_and_label(data):
    for part in (data.train, data.held_out):
        image, label = part[0]
        assert image.shape == (3, 16, 16) and image.dtype == torch.float32
        assert isinstance(label, int)


def test_digits_keep_scikit_learns_images_and_labels():
    digits = load_digits()
    parts = [Digits(train=train, size=8, transform=np.asarray) for train in (True, False)]
    items = [part[i] for part in parts for i in range(len(part))]
    assert [label for _, label in items] == digits.target.tolist()
    for (image, _), original in zip(items, digits.images, strict=True):
        assert np.abs(image - original[..., None] * 255 / 16).max() <= 0.5


# Enlarging smooths, which reduces the deviation a little.
@pytest.mark.parametrize("size, tolerance", [(8, 0.001), (16, 0.1)])
def test_digits_are_normalized_to_mean_0_and_deviation_1(size, tolerance):
    config = replace(TINY_VIT, image_size=size)
    part = Digits(train=True, size=size, transform=transforms.evaluation_transform(config))
    pixels = torch.stack([part[i][0] for i in range(len(part))])
    assert pixels.mean().item() == pytest.approx(0, abs=tolerance)
    assert pixels.std().item() == pytest.approx(1, abs=tolerance)


def test_held_out_digits_are_not_augmented(data):
    first = data.held_out[5][0]
    reseed(1)
    assert torch.equal(first, data.held_out[5][0])
    assert torch.equal(first, loaded(TINY_VIT).held_out[5][0])
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2])  # gray


def test_training_augmentation_depends_only_on_the_seed(data):
    def item(*place):
        reseed(*place)
        return data.train[5][0]

    assert torch.equal(item(1), item(1))
    assert len({item(n).sum().item() for n in range(20)}) > 15


def test_smoke_recipe_neither_flips_nor_cuts_digits():
    for run in SMOKE.values():
        config = run.config
        assert (config.flip, config.rand_augment, config.cutmix) == (0.0, "", 0.0)
        transform = loaded(config).train.transform
        assert [type(t).__name__ for t in transform.transforms] == [
            "RandomResizedCropAndInterpolation",
            "MaybeToTensor",
            "Normalize",
            "RandomErasing",
        ]


def test_load_refuses_an_unknown_data_set():
    with pytest.raises(ValueError, match="data is 'cifar'; expected digits or imagenet, cifar100"):
        loaded(replace(TINY_VIT, data="cifar"))
