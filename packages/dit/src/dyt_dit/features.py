"""What images are compared by: the features of Inception v3, or of a small classifier of digits."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dyt_dit.config import Extractor
from dyt_dit.digits_features import SIDE, Classifier
from dyt_dit.exactness import exact
from matched.task import Context
from matched.training.artifacts import load_artifact
from matched.training.file_tasks import digest

log = logging.getLogger("matched")
POOL, LOGITS, SPATIAL = "pool", "logits", "spatial"
SPATIAL_CHANNELS = 7
PUBLISHED = "6726825d"
"""How the SHA-256 of torch-fidelity's weights starts, as the name of their file tells."""


class FeatureExtractor(Protocol):
    """Turns images into features.

    Attributes:
        checksum: SHA-256 of the weights' file: features of different ones cannot be compared.
        names: of the features that come out: ``POOL`` (Fréchet distance, precision, recall),
            ``LOGITS`` (Inception score) and, of Inception, ``SPATIAL`` (sFID).
        warnings: sentences that have to stand beside every number made of these features.
    """

    checksum: str
    names: tuple[str, ...]
    warnings: tuple[str, ...]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (B, 3, H, W) → name → (B, D) on the CPU, float32 or float64."""
        ...


def open_extractor(kind: Extractor, path: Path, device: torch.device) -> FeatureExtractor:
    """The extractor of a config.

    Args:
        path: of Inception's weights; or the directory of the run that has trained the classifier.

    Raises:
        ValueError: if the weights are lost, damaged, or something else.
    """
    return Inception(path, device) if kind == "inception" else DigitsExtractor(path)


def located(context: Context, kind: Extractor) -> Path:
    """Where an extractor's weights lie for a run.

    Raises:
        ValueError: if the run names no source, or needs no run, that has them.
    """
    if kind == "inception":
        if "inception" not in context.data:
            raise ValueError('the extractor is "inception": name the source "inception" in `data`')
        return context.data["inception"]
    if "classifier" not in context.needs:
        raise ValueError(
            'the extractor is "digits": a run of DigitsClassifier is needed under the name '
            '"classifier"'
        )
    return context.needs["classifier"]


class Inception:
    """Inception v3 of 2015 as torch-fidelity has ported it, in float32.

    ``POOL`` is its 2048 channels after pooling, ``LOGITS`` its 1008 logits without the bias, and
    ``SPATIAL`` the first 7 channels of the first branch of Mixed_6d (17 × 17), flattened with the
    channels last: 2023 numbers in the order of ADM's "mixed_6/conv:0". torch-fidelity resizes
    images to 299 × 299 as that network's TensorFlow graph did.
    """

    names = (POOL, LOGITS, SPATIAL)

    def __init__(self, path: Path, device: torch.device) -> None:
        state = load_artifact(path)
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise ValueError(f"{path} holds no state dict; expected {_EXPECTED}")
        # torch-fidelity unpickles whatever it is given: it gets tensors that were written here.
        tensors = io.BytesIO()
        torch.save(dict(state), tensors)
        tensors.seek(0)
        try:
            self.model = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=tensors,
            ).to(device)
        except RuntimeError as error:
            reasons = [line.strip() for line in str(error).splitlines()[1:3]]
            raise ValueError(
                f"{path} is of another network: {' '.join(reasons)[:300]} … Expected {_EXPECTED}"
            ) from None
        self.device = device
        self.checksum = digest(path)
        self.warnings = ()
        if not self.checksum.startswith(PUBLISHED):
            warning = (
                f"{path.name} is not torch-fidelity's file (its SHA-256 starts with "
                f"{self.checksum[: len(PUBLISHED)]}, not with {PUBLISHED}): distances cannot be "
                "compared with published ones"
            )
            log.warning("%s", warning)
            self.warnings = (warning,)
        self.model.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), exact():
            pool, logits = self.model(images.to(self.device))
        return {POOL: pool.cpu(), LOGITS: logits.cpu(), SPATIAL: self._spatial.cpu()}


_EXPECTED = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"


class DigitsExtractor:
    """The last hidden layer and the logits of the classifier of digits, in float64.

    Images are made grey by the mean of their channels, and 8 × 8 by area.
    """

    names = (POOL, LOGITS)
    warnings = ()

    def __init__(self, directory: Path) -> None:
        self.classifier = Classifier.read(directory)
        self.checksum = self.classifier.checksum

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        grey = images.double().mean(1, keepdim=True) / 255
        small = F.interpolate(grey, (SIDE, SIDE), mode="area")
        pool, logits = self.classifier(small.flatten(1).numpy())
        return {POOL: torch.from_numpy(pool), LOGITS: torch.from_numpy(logits)}


def extract(extractor: FeatureExtractor, batches: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """Name → features (N, D) of all images of one or more batches, uint8 (B, 3, H, W)."""
    found = [extractor(images) for images in batches]
    return {name: torch.cat([one[name] for one in found]).numpy() for name in extractor.names}


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # to a name of its own, np.savez would add a suffix
        np.savez(file, **arrays)


def read_shards(folder: Path, names: Iterable[str], array: str) -> Iterator[np.ndarray]:
    """One array of each of these files, in their order."""
    for name in names:
        with np.load(folder / name, allow_pickle=False) as arrays:
            yield arrays[array]
