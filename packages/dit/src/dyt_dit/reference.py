"""Reference statistics of real images, for FID: the task ``dyt_dit.reference:measure``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyt_dit.config import Reference
from dyt_dit.deterministic_math import deterministic_float32
from dyt_dit.feature_extractors import (
    POOL,
    extract_features,
    extractor_path,
    open_extractor,
    read_features,
    write_features,
)
from dyt_dit.fid import (
    ARRAYS,
    ReferenceStatistics,
    RunningMoments,
    read_metadata,
    read_statistics,
    warn_of_few_images,
    write_statistics,
)
from dyt_dit.images import Reader, open_split
from dyt_vision.image_data import max_unreadable
from matched.files import DamagedFileError
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks
from matched.training.file_tasks import make_files, remove_stale_files
from matched.training.fingerprint import digest_of

log = logging.getLogger("matched")
FILE = "reference.npz"
METADATA_KEYS = ("extractor", "images", "count", "left_out", "warnings")
"""Keys of reference.json in addition to the checksum."""
INDICES = "indices"
MAX_NAMED = 3
"""Maximum number of files that an error message names."""


def measure(context: Context, config: Reference) -> Outcome:
    """Measure the training images of a data set; the metric is ``images``, their number.

    Raises:
        ValueError: if the extractor or the images are unusable.
    """
    with process_group(context) as device, deterministic_float32():
        with raise_on_all_ranks():
            measurement = Measurement(context, config, device)
        images = on_rank0(measurement.images.digest)
        metadata = on_rank0(lambda: measurement.finished_metadata(images))
        if metadata is None:
            folder = context.directory / _features_folder(measurement.extractor.checksum, images)
            make_files(context, folder, list(measurement.files), measurement.write_file)
            metadata = on_rank0(lambda: measurement.write_reference(folder, images))
        on_rank0(lambda: remove_stale_files(context, context.directory.glob("features-*")))
        return Outcome(
            metrics={"images": metadata["count"]},
            steps=len(measurement.files),
            details={key: metadata[key] for key in ("extractor", "left_out", "warnings")},
        )


def _features_folder(extractor: str, images: str) -> str:
    """Return the folder of the feature files, which is specific to the weights and the images."""
    return f"features-{digest_of([extractor, images])}"


class Measurement:
    """Writer of the files of features and of the statistics over all of them.

    Attributes:
        files: name of a file of features → indices of its images.
    """

    def __init__(self, context: Context, config: Reference, device: torch.device) -> None:
        self.context, self.config, self.device = context, config, device
        weights = extractor_path(context, config.extractor)
        self.extractor = open_extractor(config.extractor, weights, device)
        (data,) = (name for name in config.data if name != "inception")
        self.images = open_split(data, context.data.get(data), "train", config.image_size)
        self.reader = Reader(self.images, batch=config.batch, num_workers=context.num_workers)
        self.max_left_out = max_unreadable(len(self.images))
        size = config.images_per_file
        self.files = {
            f"{i:05d}.npz": range(start, min(start + size, len(self.images)))
            for i, start in enumerate(range(0, len(self.images), size))
        }

    def write_file(self, name: str, path: Path) -> None:
        """Write one file: features and the indices of their images.

        Raises:
            ValueError: if too many of its images cannot be read.
        """
        indices: list[int] = []
        features = extract_features(self.extractor, self._readable(self.files[name], indices))
        write_features(path, {INDICES: np.array(indices), **features})

    def _readable(self, images: range, indices: list[int]) -> Iterator[Tensor]:
        """Yield batches of the readable images and append their indices to ``indices``."""
        left_out: list[int] = []
        for batch in self.reader.read(images.start, images.stop):
            for index, reason in batch.unreadable.items():
                log.warning("%s; it is left out", reason)
                left_out.append(index)
            self._check_left_out(left_out)
            if batch.indices:
                indices += batch.indices
                yield batch.images
        if not indices:
            raise ValueError(
                f"none of the images {images.start} to {images.stop - 1} of the training set can "
                "be read; replace them or increase `images_per_file`"
            )

    def _check_left_out(self, left_out: list[int]) -> None:
        if len(left_out) > self.max_left_out:
            names = ", ".join(self.images.name(index) for index in left_out[:MAX_NAMED])
            raise ValueError(
                f"{len(left_out)} of {len(self.images)} images of the training set cannot be read, "
                f"and at most {self.max_left_out} may be left out: {names}. Replace or delete them"
            )

    def finished_metadata(self, images: str) -> dict[str, Any] | None:
        """Return the metadata of statistics that an earlier attempt finished, if they are current.

        Args:
            images: digest of the images.
        """
        try:
            metadata = read_metadata(self.context.directory / FILE, *METADATA_KEYS)
        except DamagedFileError:
            return None
        origin = (metadata["extractor"], metadata["images"])
        return metadata if origin == (self.extractor.checksum, images) else None

    def write_reference(self, folder: Path, images: str) -> dict[str, Any]:
        """Compute the statistics in the order of the images and write them; call on rank 0.

        Args:
            folder: folder of the files of features.
            images: digest of the images.

        Returns:
            The metadata of the statistics.
        """
        names = list(self.files)
        indices = np.concatenate(list(read_features(folder, names, INDICES)))
        left_out = sorted(set(range(len(self.images))) - set(indices.tolist()))
        self._check_left_out(left_out)  # each file may be within the limit, but not all together
        statistics = {}
        for name in (name for name in ARRAYS if name in self.extractor.names):
            moments = RunningMoments(self.device)
            for features in read_features(folder, names, name):
                moments.add(features)
            statistics[name] = moments.statistics()
        warnings = [*self.extractor.warnings, *warn_of_few_images(statistics, "reference")]
        kept = self._kept(read_features(folder, names, POOL), len(indices))
        self.context.write_fingerprint(weights=self.extractor.checksum, batches=[images])
        metadata = {
            "extractor": self.extractor.checksum,
            "images": images,
            "count": len(indices),
            "left_out": [self.images.name(index) for index in left_out],
            "warnings": warnings,
        }
        reference = ReferenceStatistics(statistics=statistics, features=kept)
        write_statistics(self.context.owned_path(FILE), reference, **metadata)
        return metadata

    def _kept(self, chunks: Iterator[np.ndarray], count: int) -> np.ndarray:
        """Select the features of ``config.kept`` images, spread evenly over all ``count``."""
        kept_count = min(self.config.kept, count)
        rows = np.arange(kept_count) * count // kept_count
        kept, first = [], 0
        for features in chunks:
            inside = (rows >= first) & (rows < first + len(features))
            kept.append(features[rows[inside] - first])
            first += len(features)
        return np.concatenate(kept)


def read_reference(directory: Path) -> tuple[ReferenceStatistics, dict[str, Any]]:
    """Read the statistics of a ``measure`` run and their metadata (the keys ``METADATA_KEYS``).

    Raises:
        ValueError: if a file is missing or damaged; the message says how to write it again.
    """
    try:
        metadata = read_metadata(directory / FILE, *METADATA_KEYS)
    except DamagedFileError as error:
        raise ValueError(
            f"{error}. The run is done: delete {directory / 'result.json'} and submit again to "
            "measure the images again"
        ) from error
    return read_statistics(directory / FILE, metadata["count"]), metadata
