"""Statistics of real images' features, measured once: the task ``dyt_dit.reference:measure``."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyt_dit import statistics
from dyt_dit.config import Reference
from dyt_dit.exactness import exact
from dyt_dit.features import (
    POOL,
    extract,
    located,
    open_extractor,
    read_shards,
    write_shard,
)
from dyt_dit.images import Reader, open_split
from dyt_dit.statistics import ARRAYS, Measured, Moments
from dyt_vision.image_data import max_unreadable
from matched.files import DamagedFileError
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks
from matched.training.file_tasks import make_files
from matched.training.fingerprint import digest_of

log = logging.getLogger("matched")
FILE = "reference.npz"
FACTS = ("extractor", "images", "count", "left_out", "warnings")
"""What reference.json tells besides the checksum."""
INDICES = "indices"
NAMED = 3
"""Files that a message about many of them names."""


def measure(context: Context, config: Reference) -> Outcome:
    """Measure the training images of a data set; the metric is ``images``, how many.

    Raises:
        ValueError: if the extractor or the images are not what they have to be.
    """
    with process_group(context) as device, exact():
        with raise_on_all_ranks():
            measurement = Measurement(context, config, device)
        images = on_rank0(measurement.images.digest)
        found = on_rank0(lambda: measurement.concluded(images))
        if found is None:
            folder = context.directory / _folder(measurement.extractor.checksum, images)
            make_files(context, folder, list(measurement.parts), measurement.make)
            found = on_rank0(lambda: measurement.conclude(folder, images))
        on_rank0(lambda: _forget_shards(context.directory))
        return Outcome(
            metrics={"images": found["count"]},
            steps=len(measurement.parts),
            details={key: found[key] for key in ("extractor", "left_out", "warnings")},
        )


def _folder(extractor: str, images: str) -> str:
    """Where the shards lie: features of other images or weights are never taken for these."""
    return f"features-{digest_of([extractor, images])}"


def _forget_shards(directory: Path) -> None:
    for folder in directory.glob("features-*"):
        shutil.rmtree(folder)


class Measurement:
    """Makes the shards of features, and the statistics of all of them.

    Attributes:
        parts: name of a shard → the images in it.
    """

    def __init__(self, context: Context, config: Reference, device: torch.device) -> None:
        self.context, self.config, self.device = context, config, device
        place = located(context, config.extractor)
        self.extractor = open_extractor(config.extractor, place, device)
        (data,) = (name for name in config.data if name != "inception")
        self.images = open_split(data, context.data.get(data), "train", config.image_size)
        self.reader = Reader(self.images, batch=config.batch, num_workers=context.num_workers)
        self.most = max_unreadable(len(self.images))
        starts = range(0, len(self.images), config.shard)
        self.parts = {
            f"{i:05d}.npz": range(start, min(start + config.shard, len(self.images)))
            for i, start in enumerate(starts)
        }

    def make(self, name: str, path: Path) -> None:
        """Write one shard: features, and the indices of the images that they are of.

        Raises:
            ValueError: if too many of its images cannot be read.
        """
        indices: list[int] = []
        features = extract(self.extractor, self._readable(self.parts[name], indices))
        write_shard(path, {INDICES: np.array(indices), **features})

    def _readable(self, part: range, indices: list[int]) -> Iterator[Tensor]:
        """The images of a part, and into ``indices`` which they are."""
        left_out: list[int] = []
        for batch in self.reader.read(part.start, part.stop):
            for index, why in batch.unreadable.items():
                log.warning("%s; it is left out", why)
                left_out.append(index)
            self._check_left_out(left_out)
            if batch.indices:
                indices += batch.indices
                yield batch.images
        if not indices:
            raise ValueError(
                f"none of the images {part.start} to {part.stop - 1} of the training set can be "
                "read; replace them, or make `shard` larger"
            )

    def _check_left_out(self, left_out: list[int]) -> None:
        if len(left_out) > self.most:
            named = ", ".join(self.images.name(index) for index in left_out[:NAMED])
            raise ValueError(
                f"{len(left_out)} images of the training set cannot be read, of "
                f"{len(self.images)}; {self.most} may be left out: {named}. Replace them, or "
                "delete them"
            )

    def concluded(self, images: str) -> dict[str, Any] | None:
        """What was told of statistics that an earlier attempt has finished."""
        try:
            found = statistics.facts(self.context.directory / FILE, *FACTS)
        except DamagedFileError:
            return None
        made_of = (found["extractor"], found["images"])
        return found if made_of == (self.extractor.checksum, images) else None

    def conclude(self, folder: Path, images: str) -> dict[str, Any]:
        """Write what all shards together tell; on one process, in the order of the images."""
        names = list(self.parts)
        indices = np.concatenate(list(read_shards(folder, names, INDICES)))
        left_out = sorted(set(range(len(self.images))) - set(indices.tolist()))
        self._check_left_out(left_out)  # every part may have had its share of them
        found = {}
        for name in (name for name in ARRAYS if name in self.extractor.names):
            moments = Moments(self.device)
            for features in read_shards(folder, names, name):
                moments.add(features)
            found[name] = moments.statistics()
        warnings = [*self.extractor.warnings, *statistics.too_few(found, "reference")]
        kept = self._kept(read_shards(folder, names, POOL), len(indices))
        self.context.write_fingerprint(weights=self.extractor.checksum, batches=[images])
        facts = {
            "extractor": self.extractor.checksum,
            "images": images,
            "count": len(indices),
            "left_out": [self.images.name(index) for index in left_out],
            "warnings": warnings,
        }
        measured = Measured(statistics=found, kept=kept)
        statistics.write(self.context.owned_path(FILE), measured, **facts)
        return facts

    def _kept(self, parts: Iterator[np.ndarray], count: int) -> np.ndarray:
        """Features of so many images, spread evenly over all."""
        most = min(self.config.kept, count)
        rows = np.arange(most) * count // most
        kept, first = [], 0
        for features in parts:
            inside = (rows >= first) & (rows < first + len(features))
            kept.append(features[rows[inside] - first])
            first += len(features)
        return np.concatenate(kept)


def read(directory: Path) -> tuple[Measured, dict[str, Any]]:
    """What a run of ``measure`` has left: statistics, and what is told of them.

    Raises:
        ValueError: if it is lost or damaged; the run writes it anew, as the message says.
    """
    try:
        facts = statistics.facts(directory / FILE, *FACTS)
    except DamagedFileError as error:
        raise ValueError(
            f"{error}. The images have been measured: delete {directory / 'result.json'} and "
            "submit again, and they are measured anew"
        ) from error
    return statistics.read(directory / FILE, facts["count"]), facts
