"""Feature extractors for FID and related metrics: Inception v3, and a small digits classifier."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dyt_dit.config import Extractor
from dyt_dit.deterministic_math import deterministic_float32
from dyt_dit.digits_features import SIDE, Classifier
from matched.task import Context
from matched.training.artifacts import load_artifact
from matched.training.file_tasks import digest

log = logging.getLogger("matched")
POOL, LOGITS, SPATIAL = "pool", "logits", "spatial"
SPATIAL_CHANNELS = 7
PUBLISHED_SHA256 = "6726825d"
"""Start of the SHA-256 of torch-fidelity's weights, as in their file name."""


class FeatureExtractor(Protocol):
    """Interface of the feature extractors.

    Attributes:
        checksum: SHA-256 of the weights file; features of different weights cannot be compared.
        names: names of the features: ``POOL`` (Fréchet distance, precision, recall), ``LOGITS``
            (Inception score) and, for Inception, ``SPATIAL`` (sFID).
        warnings: sentences that must accompany every metric computed from these features.
    """

    checksum: str
    names: tuple[str, ...]
    warnings: tuple[str, ...]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Extract features of images, uint8 (B, 3, H, W).

        Returns:
            Name → features (B, D) on the CPU, float32 or float64.
        """
        ...


def open_extractor(kind: Extractor, path: Path, device: torch.device) -> FeatureExtractor:
    """Open the extractor of a config.

    Args:
        path: Inception's weights file, or the directory of the run that trained the classifier.

    Raises:
        ValueError: if the weights are missing, damaged, or of another network.
    """
    return InceptionExtractor(path, device) if kind == "inception" else DigitsExtractor(path)


def extractor_path(context: Context, kind: Extractor) -> Path:
    """Return the path of an extractor's weights for a run.

    Raises:
        ValueError: if the run lacks the data source, or the need, that has them.
    """
    if kind == "inception":
        if "inception" not in context.data:
            raise ValueError('the extractor is "inception"; add the source "inception" to `data`')
        return context.data["inception"]
    if "classifier" not in context.needs:
        raise ValueError(
            'the extractor is "digits"; add a DigitsClassifier run to the needs under the name '
            '"classifier"'
        )
    return context.needs["classifier"]


class InceptionExtractor:
    """Inception v3 of 2015 as ported by torch-fidelity, in float32.

    ``POOL`` is its 2048 channels after pooling, ``LOGITS`` its 1008 logits without the bias, and
    ``SPATIAL`` the first 7 channels of the first branch of Mixed_6d (17 × 17), flattened with the
    channels last: 2023 numbers in the order of ADM's "mixed_6/conv:0". torch-fidelity resizes
    images to 299 × 299 as the TensorFlow graph of that network does.
    """

    names: tuple[str, ...] = (POOL, LOGITS, SPATIAL)

    def __init__(self, path: Path, device: torch.device) -> None:
        state = load_artifact(path)
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise ValueError(f"{path} has no state dict; expected {_EXPECTED}")
        # torch-fidelity unpickles any file it is given; pass it only tensors re-saved here.
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
                f"{path} has weights of another network: {' '.join(reasons)[:300]} … Expected "
                f"{_EXPECTED}"
            ) from None
        self.device = device
        self.checksum = digest(path)
        self.warnings: tuple[str, ...] = ()
        if not self.checksum.startswith(PUBLISHED_SHA256):
            warning = (
                f"{path.name} is not torch-fidelity's file (its SHA-256 starts with "
                f"{self.checksum[: len(PUBLISHED_SHA256)]}, not with {PUBLISHED_SHA256}); the "
                "metrics cannot be compared with published ones"
            )
            log.warning("%s", warning)
            self.warnings = (warning,)
        self.model.Mixed_6d.branch1x1.register_forward_hook(self._save_spatial)

    def _save_spatial(self, module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        self._spatial = rearrange(output[:, :SPATIAL_CHANNELS], "b c h w -> b (h w c)")

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), deterministic_float32():
            pool, logits = self.model(images.to(self.device))
        return {POOL: pool.cpu(), LOGITS: logits.cpu(), SPATIAL: self._spatial.cpu()}


_EXPECTED = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"


class DigitsExtractor:
    """Last hidden layer and logits of the digits classifier, in float64.

    Images are converted to gray by the mean of their channels, and resized to 8 × 8 by area.
    """

    names: tuple[str, ...] = (POOL, LOGITS)
    warnings: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        self.classifier = Classifier.read(directory)
        self.checksum = self.classifier.checksum

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        gray = reduce(images.double(), "b c h w -> b 1 h w", "mean") / 255
        small = F.interpolate(gray, (SIDE, SIDE), mode="area")
        pool, logits = self.classifier(rearrange(small, "b 1 h w -> b (h w)").numpy())
        return {POOL: torch.from_numpy(pool), LOGITS: torch.from_numpy(logits)}


def extract_features(
    extractor: FeatureExtractor, batches: Iterable[Tensor]
) -> dict[str, np.ndarray]:
    """Extract features of all images of one or more batches, uint8 (B, 3, H, W).

    Returns:
        Name → features (N, D).
    """
    features = [extractor(images) for images in batches]
    return {
        name: torch.cat([batch[name] for batch in features]).numpy() for name in extractor.names
    }


def write_features(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of features."""
    with path.open("wb") as file:  # given a path, np.savez would add a suffix
        content: Mapping[str, Any] = arrays  # np.savez also has keywords of other types
        np.savez(file, **content)


def read_features(folder: Path, names: Iterable[str], array: str) -> Iterator[np.ndarray]:
    """Yield one array from each of the named files, in their order."""
    for name in names:
        with np.load(folder / name, allow_pickle=False) as arrays:
            yield arrays[array]
