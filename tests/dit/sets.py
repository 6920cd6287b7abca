"""Sets of images to score, feature extractors, and the runs that reference and scoring need."""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dyt_dit import digits_features, image_npz, reference, scoring
from dyt_dit.config import DigitsClassifier
from dyt_dit.images import open_split
from matched.training.file_tasks import digest

from .tiny import run
from .two_processes_scoring import REFERENCE, SCORING


def inception(path, seed=0):
    """Save random weights of torch-fidelity's Inception, with activations that do not vanish."""
    torch.save({}, path)
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        model = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=path)
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(model.state_dict(), path)
    return path


def noise(count, side=8, seed=0):
    """Return random images, uint8 (count, side, side, 3), and their classes, out of ten."""
    source = np.random.default_rng(seed)
    images = source.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return images, source.integers(0, 10, count)


def held_out(count=360):
    """Return held-out digits, which are not in the reference, as samples."""
    images = open_split("digits", None, "held_out", 8)
    pixels = np.stack([images[i][0].permute(1, 2, 0).numpy() for i in range(count)])
    return pixels, np.array(images.targets[:count])


def samples(directory, images, labels):
    """Write the output of a Sampling run."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "samples.npz"
    image_npz.write_images(file, images.shape, [images], labels=labels)
    Path(f"{file}.sha256").write_text(digest(file) + "\n")
    return directory


def classifier(directory, **where):
    run(digits_features.train, directory, DigitsClassifier(), **where)
    return directory


def measured(directory, classifier_run, config=REFERENCE, **where):
    return run(reference.measure, directory, config, needs={"classifier": classifier_run}, **where)


def scored(directory, config=SCORING, data=None, rank=0, world_size=1, **needs):
    where = {"rank": rank, "local_rank": rank, "world_size": world_size, "data": data or {}}
    return run(scoring.score, directory, config, needs=needs, **where)


class Averages:
    """A simple extractor that tests can recompute: mean colors of rows and columns."""

    checksum = "averages"
    names = ("pool", "logits", "spatial")
    warnings = ("these are averages",)

    def __call__(self, images):
        values = images.double() / 255
        return {
            "pool": values.mean(3).flatten(1),
            "logits": 9 * values.mean(2).flatten(1),
            "spatial": values[:, 0, :2].flatten(1),
        }
