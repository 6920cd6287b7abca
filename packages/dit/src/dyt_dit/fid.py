"""FID, Inception score, precision and recall, and .npz files of reference statistics.

The formulas are torch-fidelity's. Means and covariances are computed here, chunk by chunk and in
float64: torch-fidelity and ADM's suite average float32 features in float32, image by image, which
loses precision as the number of images grows. On the same features in float64, torch-fidelity gives
these numbers.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_prc import (
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
    prc_features_to_metric,
)

from dyt_dit.feature_extractors import POOL, SPATIAL
from matched.files import DamagedFileError, atomic_write, read_json, write_json
from matched.training.file_tasks import digest

log = logging.getLogger("matched")
ARRAYS = {POOL: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
"""Feature → names of its mean and covariance in ADM's reference batches and in our files."""
FEATURES_ARRAY = "kept"
"""Name of the array of single images' features in our files."""
IMAGES_PER_SCORE = 5000
"""Number of images for which ADM's suite computes one Inception score."""
DISTANCE_BLOCK = 2500
"""Number of images whose distances to all others are in memory at a time: 0.5 GB for 50,000."""


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """Mean (D,) and covariance (D, D) of features, float64, and the number of images if known."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None


class RunningMoments:
    """Mean and covariance of features that arrive in chunks, in float64 on one device.

    Chunks are merged by the deviations from their own means (Chan, Golub and LeVeque 1983), which
    stays accurate when the mean is far from zero.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.scatter: Tensor | float = 0.0

    def add(self, features: np.ndarray) -> None:
        """Add a chunk of features (N, D) with N of at least 1."""
        values = torch.from_numpy(features).to(self.device, torch.float64)
        mean = values.mean(0)
        deviations = values - mean
        shift = mean - self.mean
        before, self.count = self.count, self.count + len(values)
        self.mean = self.mean + shift * (len(values) / self.count)
        self.scatter = (
            self.scatter
            + deviations.T @ deviations
            + torch.outer(shift, shift) * (before * len(values) / self.count)
        )

    def statistics(self) -> FeatureStatistics:
        """Return the statistics of all features added so far.

        Raises:
            ValueError: if there are fewer than two images, which have no covariance.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} images have no covariance; expected 2 or more")
        assert isinstance(self.mean, Tensor) and isinstance(self.scatter, Tensor)
        covariance = self.scatter / (self.count - 1)
        return FeatureStatistics(
            mean=self.mean.cpu().numpy(), covariance=covariance.cpu().numpy(), count=self.count
        )


def frechet_distance(generated: FeatureStatistics, real: FeatureStatistics) -> float:
    """Return the Fréchet distance of two normal distributions (Heusel et al. 2017, arXiv
    1706.08500): FID for Inception's pooled features, sFID for its spatial ones."""
    pair = ({"mu": s.mean, "sigma": s.covariance} for s in (generated, real))
    return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


def inception_score(logits: np.ndarray) -> float:
    """Return the Inception score of logits (N, classes) as in ADM's suite: the mean of the scores
    of 5,000 images each.

    The images are taken in order. torch-fidelity's default is ten chunks of shuffled images, which
    are equally large for 50,000 images.
    """
    chunks = torch.from_numpy(logits).split(IMAGES_PER_SCORE)
    scores = [isc_features_to_metric(chunk, splits=1, shuffle=False) for chunk in chunks]
    return float(np.mean([score[KEY_METRIC_ISC_MEAN] for score in scores]))


def precision_recall(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int, device: torch.device
) -> tuple[float, float]:
    """Return precision and recall by k-NN manifolds (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    Args:
        generated: features (N, D).
        real: features (M, D).
        neighbours: k.

    Raises:
        ValueError: if a set has no more than k images.
    """
    smallest = min(len(generated), len(real))
    if smallest <= neighbours:
        raise ValueError(
            f"one set has {smallest} images; precision and recall with neighbours = {neighbours} "
            f"need at least neighbours + 1 = {neighbours + 1} images in each set"
        )
    metrics = prc_features_to_metric(
        *(torch.from_numpy(features).to(device) for features in (generated, real)),
        prc_neighborhood=neighbours,
        prc_batch_size=DISTANCE_BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )
    return metrics[KEY_METRIC_PRECISION], metrics[KEY_METRIC_RECALL]


def warn_of_few_images(statistics: Mapping[str, FeatureStatistics], kind: str) -> list[str]:
    """Log and return a warning for each feature with more dimensions than there are images.

    Args:
        kind: kind of the images, for the message: "generated" or "reference".
    """
    warnings = [
        f"{s.count} {kind} images are fewer than the {len(s.mean)} dimensions of the features "
        f"({name}), so the covariance is singular and the Fréchet distance too high"
        for name, s in statistics.items()
        if s.count is not None and s.count < len(s.mean)
    ]
    for warning in warnings:
        log.warning("%s", warning)
    return warnings


@dataclass(frozen=True, kw_only=True)
class ReferenceStatistics:
    """Statistics of the features of real images.

    Attributes:
        statistics: feature → its mean and covariance.
        features: features "pool" of some of the images, (N, D), for precision and recall; None for
            ADM's file, which has the images instead.
    """

    statistics: Mapping[str, FeatureStatistics]
    features: np.ndarray | None


def write_statistics(path: Path, reference: ReferenceStatistics, **metadata: object) -> None:
    """Write an .npz with the array names of ADM's, then a .json with its checksum and ``metadata``.

    The .npz is valid only with the .json.
    """
    arrays: dict[str, Any] = {FEATURES_ARRAY: reference.features}
    for name, s in reference.statistics.items():
        arrays |= dict(zip(ARRAYS[name], (s.mean, s.covariance), strict=True))
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        checksum = digest(temporary)
    write_json(path.with_suffix(".json"), {"sha256": checksum, **metadata})


def read_metadata(path: Path, *keys: str) -> dict[str, Any]:
    """Verify the checksum of an .npz and return the contents of its .json.

    Args:
        keys: keys that the .json must have in addition to the checksum.

    Raises:
        DamagedFileError: if one of the two files is missing or damaged.
    """
    metadata = read_json(path.with_suffix(".json"), ("sha256", *keys))
    if metadata is None:
        raise DamagedFileError(f"there is no {path.with_suffix('.json')}")
    if not path.is_file():
        raise DamagedFileError(f"there is no {path}")
    if digest(path) != metadata["sha256"]:
        raise DamagedFileError(
            f"{path} is damaged: its checksum differs from the one in {path.stem}.json"
        )
    return metadata


def read_statistics(path: Path, count: int | None = None) -> ReferenceStatistics:
    """Read the statistics in an .npz of ours, or in a reference batch of ADM's.

    Args:
        count: number of images, if known.

    Raises:
        ValueError: if the file is damaged or has no valid statistics.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            statistics = {
                name: FeatureStatistics(
                    mean=arrays[mean].astype(np.float64),
                    covariance=arrays[covariance].astype(np.float64),
                    count=count,
                )
                for name, (mean, covariance) in ARRAYS.items()
                if mean in arrays and covariance in arrays
            }
            features = arrays.get(FEATURES_ARRAY)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a complete .npz file ({error}); copy it again") from error
    if POOL not in statistics:
        raise ValueError(f"{path} has no statistics; expected the arrays mu and sigma")
    for name, s in statistics.items():
        mean, covariance = ARRAYS[name]
        if s.mean.ndim != 1 or s.covariance.shape != s.mean.shape * 2:
            raise ValueError(
                f"{mean} and {covariance} of {path} are {s.mean.shape} and {s.covariance.shape}; "
                "expected (D,) and (D, D)"
            )
        if not (np.isfinite(s.mean).all() and np.isfinite(s.covariance).all()):
            raise ValueError(f"{mean} or {covariance} of {path} is not finite; copy it again")
    return ReferenceStatistics(statistics=statistics, features=features)
