"""How alike two sets of features are: Fréchet distance, Inception score, precision and recall.

The formulas are torch-fidelity's. Means and covariances are of our own making, shard by shard and
in float64. torch-fidelity and ADM's suite average float32 features in float32, one image after the
other, so that the more images there are the more is lost; torch-fidelity's on the same features in
float64 are these.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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

from dyt_dit.features import POOL, SPATIAL
from matched.files import DamagedFileError, atomic_write, read_json, write_json
from matched.training.file_tasks import digest

log = logging.getLogger("matched")
ARRAYS = {POOL: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
"""Feature → what ADM's reference batches call its mean and covariance; our files do too."""
KEPT = "kept"
SPLIT = 5000
"""Images of which ADM's suite makes one Inception score."""
BLOCK = 2500
"""Images whose distances to all others are held at a time: 0.5 GB for 50,000."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of features, float64, and of how many images if known."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None


class Moments:
    """Mean and covariance of features that come in parts, in float64 on one device.

    Parts are merged by the deviations from their own means (Chan, Golub and LeVeque 1983), which
    loses nothing where the mean is far from zero.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.scatter: Tensor | float = 0.0

    def add(self, features: np.ndarray) -> None:
        """(N, D), N of 1 or more."""
        values = torch.from_numpy(features).to(self.device, torch.float64)
        mean = values.mean(0)
        deviations = values - mean
        apart = mean - self.mean
        before, self.count = self.count, self.count + len(values)
        self.mean = self.mean + apart * (len(values) / self.count)
        self.scatter = (
            self.scatter
            + deviations.T @ deviations
            + torch.outer(apart, apart) * (before * len(values) / self.count)
        )

    def statistics(self) -> Statistics:
        """
        Raises:
            ValueError: for fewer than two images, which have no covariance.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} images have no covariance; expected 2 or more")
        assert isinstance(self.mean, Tensor) and isinstance(self.scatter, Tensor)
        covariance = self.scatter / (self.count - 1)
        return Statistics(
            mean=self.mean.cpu().numpy(), covariance=covariance.cpu().numpy(), count=self.count
        )


def frechet(one: Statistics, other: Statistics) -> float:
    """Fréchet distance of two normal distributions (Heusel et al. 2017, arXiv 1706.08500)."""
    pair = ({"mu": s.mean, "sigma": s.covariance} for s in (one, other))
    return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


def inception_score(logits: np.ndarray) -> float:
    """Inception score of (N, classes) as ADM's suite has it: the mean of 5,000 images each.

    They are taken in their order. torch-fidelity's default is ten parts of shuffled images: as
    large where there are 50,000.
    """
    parts = torch.from_numpy(logits).split(SPLIT)
    scores = [isc_features_to_metric(part, splits=1, shuffle=False) for part in parts]
    return float(np.mean([score[KEY_METRIC_ISC_MEAN] for score in scores]))


def precision_recall(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int, device: torch.device
) -> tuple[float, float]:
    """Precision and recall by k-NN manifolds (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    Args:
        generated, real: (N, D) and (M, D).

    Raises:
        ValueError: for sets too small to have so many neighbours.
    """
    fewest = min(len(generated), len(real))
    if fewest <= neighbours:
        raise ValueError(
            f"one set has {fewest} images; precision and recall by {neighbours} neighbours "
            f"(neighbours) need {neighbours + 1} or more in both"
        )
    found = prc_features_to_metric(
        *(torch.from_numpy(features).to(device) for features in (generated, real)),
        prc_neighborhood=neighbours,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def too_few(statistics: Mapping[str, Statistics], images: str) -> list[str]:
    """A warning, logged too, for each feature that has more dimensions than there are images."""
    warnings = [
        f"{s.count} {images} images are fewer than the {len(s.mean)} dimensions of the features "
        f"({name}): the covariance is singular, and the Fréchet distance too high"
        for name, s in statistics.items()
        if s.count is not None and s.count < len(s.mean)
    ]
    for warning in warnings:
        log.warning("%s", warning)
    return warnings


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of real images.

    Attributes:
        statistics: feature → its mean and covariance.
        kept: features "pool" of some of them, (N, D); None in ADM's file, which has images instead.
    """

    statistics: Mapping[str, Statistics]
    kept: np.ndarray | None


def write(path: Path, measured: Measured, **facts: object) -> None:
    """Write an .npz that has the names of ADM's, and then, beside it, its checksum and ``facts``.

    The second file is what makes the first one count.
    """
    arrays = {KEPT: measured.kept}
    for name, s in measured.statistics.items():
        arrays |= dict(zip(ARRAYS[name], (s.mean, s.covariance), strict=True))
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        checksum = digest(temporary)
    write_json(path.with_suffix(".json"), {"sha256": checksum, **facts})


def facts(path: Path, *keys: str) -> dict:
    """What was written beside an .npz, which has the checksum that is told there.

    Raises:
        Damaged: if one of the two files is lost or damaged.
    """
    found = read_json(path.with_suffix(".json"), ("sha256", *keys))
    if found is None:
        raise DamagedFileError(f"there is no {path.with_suffix('.json')}")
    if not path.is_file():
        raise DamagedFileError(f"there is no {path}")
    if digest(path) != found["sha256"]:
        raise DamagedFileError(
            f"{path} is damaged: its checksum is not the one in {path.stem}.json"
        )
    return found


def read(path: Path, count: int | None = None) -> Measured:
    """The statistics in an .npz of ours, or in a reference batch of ADM's.

    Args:
        count: images that they are of, if known.

    Raises:
        ValueError: if the file is damaged, or what it holds is none.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {
                name: Statistics(
                    mean=arrays[mean].astype(np.float64),
                    covariance=arrays[covariance].astype(np.float64),
                    count=count,
                )
                for name, (mean, covariance) in ARRAYS.items()
                if mean in arrays and covariance in arrays
            }
            kept = arrays.get(KEPT)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole .npz file ({error}); copy it again") from error
    if POOL not in found:
        raise ValueError(f"{path} holds no statistics; expected mu and sigma in it")
    for name, s in found.items():
        mean, covariance = ARRAYS[name]
        if s.mean.ndim != 1 or s.covariance.shape != s.mean.shape * 2:
            raise ValueError(
                f"{mean} and {covariance} of {path} are {s.mean.shape} and {s.covariance.shape}; "
                "expected (D,) and (D, D)"
            )
        if not (np.isfinite(s.mean).all() and np.isfinite(s.covariance).all()):
            raise ValueError(f"{mean} or {covariance} of {path} is not finite; copy it again")
    return Measured(statistics=found, kept=kept)
