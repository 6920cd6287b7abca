"""Scores a set of generated images: the task ``dyt_dit.scoring:score``.

With Inception's features these are the five numbers of ADM's evaluation suite (Dhariwal and Nichol
2021, arXiv 2105.05233): FID, sFID, Inception score, precision and recall. With those of the
classifier of digits they have names of their own, for they cannot be compared with these.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyt_dit import pictures, reference, statistics
from dyt_dit.config import Scoring
from dyt_dit.exactness import exact
from dyt_dit.features import (
    LOGITS,
    POOL,
    SPATIAL,
    extract,
    located,
    open_extractor,
    read_shards,
    write_shard,
)
from dyt_dit.image_sets import ImageFile
from dyt_dit.statistics import ARRAYS, Measured, Moments, Statistics
from matched.task import Context, Outcome
from matched.training.artifacts import has_diverged
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks
from matched.training.file_tasks import CHECKSUM_SUFFIX, digest, make_files
from matched.training.fingerprint import digest_of

SAMPLES = "samples.npz"
PICTURE = "samples.png"
KEYS = {
    "inception": {POOL: "fid", SPATIAL: "sfid", LOGITS: "is"},
    "digits": {POOL: "frechet_digits", LOGITS: "digits_is"},
}
"""Extractor → feature → the metric that is made of it, besides precision and recall."""
GENERATED, REAL = "generated", "real"


def score(context: Context, config: Scoring) -> Outcome:
    """Score the images of a sampling run, and draw some of them.

    Raises:
        ValueError: if the images, the reference or the extractor are not what they have to be.
    """
    if "samples" not in context.needs:
        raise ValueError('scoring needs a run of Sampling under the name "samples"')
    if has_diverged(context.needs["samples"]):
        why = {"reason": "the training diverged"}
        return Outcome(metrics={}, diverged=True, steps=0, details=why)
    with process_group(context) as device, exact():
        with raise_on_all_ranks():
            scorer = Scorer(context, config, device)
        origin = on_rank0(scorer.origin)
        folder = context.directory / f"features-{origin}"
        make_files(context, folder, list(scorer.parts), scorer.make)
        outcome = on_rank0(lambda: scorer.conclude(folder))
        on_rank0(lambda: _forget_shards(context.directory))
        return outcome


def _forget_shards(directory: Path) -> None:
    for folder in directory.glob("features-*"):
        shutil.rmtree(folder)


class Scorer:
    """Makes the shards of features, and the metrics of all of them.

    Attributes:
        parts: name of a shard → the images in it: the generated ones and, where the reference is
            ADM's, the real ones that it brings.
    """

    def __init__(self, context: Context, config: Scoring, device: torch.device) -> None:
        self.context, self.config, self.device = context, config, device
        place = located(context, config.extractor)
        self.extractor = open_extractor(config.extractor, place, device)
        self.sets = {GENERATED: ImageFile(context.needs["samples"] / SAMPLES)}
        if "reference" not in context.needs:
            self.sets[REAL] = ImageFile(self._adm)
        self.parts = {
            f"{kind}-{i:05d}.npz": (kind, range(start, min(start + config.shard, len(images))))
            for kind, images in self.sets.items()
            for i, start in enumerate(range(0, len(images), config.shard))
        }

    @cached_property
    def _adm(self) -> Path:
        if self.config.extractor != "inception":
            raise ValueError(
                f'the extractor is "{self.config.extractor}": a run of Reference is needed under '
                "the name \"reference\", for ADM's has Inception's features"
            )
        if "imagenet-reference" not in self.context.data:
            raise ValueError(
                'nothing to compare with: name the source "imagenet-reference" in `data`, or a run '
                'of Reference as the need "reference"'
            )
        return self.context.data["imagenet-reference"]

    def origin(self) -> str:
        """A hash of all that the features are made of, which is checked; on one process.

        Raises:
            ValueError: if the images are damaged, or the reference is of another extractor.
        """
        samples, compared = self._samples_checksum(), self._reference_checksum()
        self.context.write_fingerprint(weights=self.extractor.checksum, batches=[compared])
        return digest_of([self.extractor.checksum, samples, compared])

    def _samples_checksum(self) -> str:
        path = self.sets[GENERATED].path
        told = path.with_name(path.name + CHECKSUM_SUFFIX)
        found = digest(path)
        if not told.is_file() or told.read_text(encoding="utf-8").strip() != found:
            raise ValueError(
                f"{path} is damaged: its checksum is not the one in {told.name}. Delete "
                f"{path.with_name('result.json')} and submit again: it is sampled anew"
            )
        return found

    def _reference_checksum(self) -> str:
        if "reference" not in self.context.needs:
            statistics.read(self._adm)  # what is wrong with it is told before features are made
            return digest(self._adm)
        _, facts = reference.read(self.context.needs["reference"])
        if facts["extractor"] != self.extractor.checksum:
            raise ValueError(
                f"the reference {self.context.needs['reference']} has features of the extractor "
                f"{facts['extractor']}, and those of the generated images would be of "
                f"{self.extractor.checksum}: let both runs use the same weights"
            )
        return facts["sha256"]

    def make(self, name: str, path: Path) -> None:
        """Write one shard of features."""
        kind, part = self.parts[name]
        write_shard(path, extract(self.extractor, self._batches(kind, part)))

    def _batches(self, kind: str, part: range) -> Iterator[Tensor]:
        for start in range(part.start, part.stop, self.config.batch):
            images = self.sets[kind][start : min(start + self.config.batch, part.stop)]
            yield torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def conclude(self, folder: Path) -> Outcome:
        """The metrics of all shards, in the order of the images; on one process."""
        shards = {
            kind: [name for name, (of, _) in self.parts.items() if of == kind] for kind in self.sets
        }
        found = {}
        for name in (name for name in ARRAYS if name in self.extractor.names):
            moments = Moments(self.device)
            for features in read_shards(folder, shards[GENERATED], name):
                moments.add(features)
            found[name] = moments.statistics()
        real = self._real(folder, shards.get(REAL, []))
        self._check_widths(found, real.statistics)
        keys = KEYS[self.config.extractor]
        warnings = [*self.extractor.warnings, *statistics.too_few(found, "generated")]
        warnings += statistics.too_few(real.statistics, "reference")
        metrics = {}
        for name, own in found.items():
            metrics[keys[name]] = statistics.frechet(own, real.statistics[name])
        logits = np.concatenate(list(read_shards(folder, shards[GENERATED], LOGITS)))
        metrics[keys[LOGITS]] = statistics.inception_score(logits)
        pool = np.concatenate(list(read_shards(folder, shards[GENERATED], POOL)))
        assert real.kept is not None
        metrics["precision"], metrics["recall"] = statistics.precision_recall(
            pool, real.kept, neighbours=self.config.neighbours, device=self.device
        )
        pictures.draw(self.context.owned_path(PICTURE), self.sets[GENERATED])
        details = {"picture": PICTURE, "warnings": warnings, "extractor": self.extractor.checksum}
        return Outcome(metrics=metrics, steps=len(self.parts), details=details)

    def _real(self, folder: Path, shards: list[str]) -> Measured:
        """What the generated images are compared with."""
        if "reference" in self.context.needs:
            measured, _ = reference.read(self.context.needs["reference"])
            return measured
        measured = statistics.read(self._adm)
        kept = np.concatenate(list(read_shards(folder, shards, POOL)))
        return Measured(statistics=measured.statistics, kept=kept)

    def _check_widths(self, own: Mapping[str, Statistics], real: Mapping[str, Statistics]) -> None:
        """Of ADM's file; a reference of ours has the checksum of its extractor."""
        for name, s in own.items():
            found = real[name].mean.shape if name in real else "nothing"
            if found != s.mean.shape:
                raise ValueError(
                    f"{self._adm} has {found} as {ARRAYS[name][0]}; expected {s.mean.shape}, as "
                    "ADM's reference batch of ImageNet has it"
                )
