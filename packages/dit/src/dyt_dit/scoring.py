"""Scoring of a set of generated images by FID and related metrics: ``dyt_dit.scoring:score``.

With Inception's features these are the five metrics of ADM's evaluation suite (Dhariwal and Nichol
2021, arXiv 2105.05233): FID, sFID, Inception score, precision and recall. With the features of the
digits classifier the metrics have other names, because they cannot be compared with those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from dyt_dit.config import Scoring
from dyt_dit.deterministic_math import deterministic_float32
from dyt_dit.feature_extractors import (
    LOGITS,
    POOL,
    SPATIAL,
    extract_features,
    extractor_path,
    open_extractor,
    read_features,
    write_features,
)
from dyt_dit.fid import (
    ARRAYS,
    FeatureStatistics,
    ReferenceStatistics,
    RunningMoments,
    frechet_distance,
    inception_score,
    precision_recall,
    read_statistics,
    warn_of_few_images,
)
from dyt_dit.image_npz import ImageFile
from dyt_dit.reference import read_reference
from dyt_dit.sample_grid import draw_sample_grid
from matched.files import CHECKSUM_SUFFIX
from matched.task import Context, Outcome
from matched.training.artifacts import TRAINING_DIVERGED, has_diverged
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks
from matched.training.file_tasks import digest, make_files, remove_stale_files
from matched.training.fingerprint import digest_of

SAMPLES = "samples.npz"
SAMPLE_GRID = "samples.png"
METRIC_NAMES = {
    "inception": {POOL: "fid", SPATIAL: "sfid", LOGITS: "is"},
    "digits": {POOL: "frechet_digits", LOGITS: "digits_is"},
}
"""Extractor → feature → metric computed from it, in addition to precision and recall."""
GENERATED, REAL = "generated", "real"


def score(context: Context, config: Scoring) -> Outcome:
    """Score the images of a sampling run, and draw a grid of some of them.

    Raises:
        ValueError: if the images, the reference or the extractor are unusable.
    """
    if "samples" not in context.needs:
        raise ValueError('scoring needs a run of Sampling under the name "samples"')
    if has_diverged(context.needs["samples"]):
        return TRAINING_DIVERGED
    with process_group(context) as device, deterministic_float32():
        with raise_on_all_ranks():
            scorer = Scorer(context, config, device)
        origin = on_rank0(scorer.check_inputs)
        folder = context.directory / f"features-{origin}"
        make_files(context, folder, list(scorer.files), scorer.write_file)
        outcome = on_rank0(lambda: scorer.compute_metrics(folder))
        on_rank0(lambda: remove_stale_files(context, context.directory.glob("features-*")))
        return outcome


class Scorer:
    """Writer of the files of features, and the metrics computed from all of them.

    Attributes:
        files: name of a file of features → (``GENERATED`` or ``REAL``, indices of its images). Real
            images are needed only with ADM's reference, which has images instead of features.
    """

    def __init__(self, context: Context, config: Scoring, device: torch.device) -> None:
        self.context, self.config, self.device = context, config, device
        weights = extractor_path(context, config.extractor)
        self.extractor = open_extractor(config.extractor, weights, device)
        self.sets = {GENERATED: ImageFile(context.needs["samples"] / SAMPLES)}
        if "reference" not in context.needs:
            self.sets[REAL] = ImageFile(self._adm_reference)
        size = config.images_per_file
        self.files = {
            f"{kind}-{i:05d}.npz": (kind, range(start, min(start + size, len(images))))
            for kind, images in self.sets.items()
            for i, start in enumerate(range(0, len(images), size))
        }

    @cached_property
    def _adm_reference(self) -> Path:
        if self.config.extractor != "inception":
            raise ValueError(
                f'the extractor is "{self.config.extractor}"; add a Reference run to the needs '
                "under the name \"reference\", because ADM's has Inception's features"
            )
        if "imagenet-reference" not in self.context.data:
            raise ValueError(
                'there is no reference; add the source "imagenet-reference" to `data`, or a '
                'Reference run to the needs under the name "reference"'
            )
        return self.context.data["imagenet-reference"]

    def check_inputs(self) -> str:
        """Check the inputs and return a hash of everything that the features depend on; call on
        rank 0.

        Raises:
            ValueError: if the images are damaged, or the reference has another extractor.
        """
        samples, reference = self._samples_checksum(), self._reference_checksum()
        self.context.write_fingerprint(weights=self.extractor.checksum, batches=[reference])
        return digest_of([self.extractor.checksum, samples, reference])

    def _samples_checksum(self) -> str:
        path = self.sets[GENERATED].path
        recorded = path.with_name(path.name + CHECKSUM_SUFFIX)
        checksum = digest(path)
        if not recorded.is_file() or recorded.read_text(encoding="utf-8").strip() != checksum:
            raise ValueError(
                f"{path} is damaged: its checksum differs from the one in {recorded.name}. Delete "
                f"{path.with_name('result.json')} and submit again to sample it again"
            )
        return checksum

    def _reference_checksum(self) -> str:
        if "reference" not in self.context.needs:
            read_statistics(self._adm_reference)  # report damage before extracting features
            return digest(self._adm_reference)
        _, metadata = read_reference(self.context.needs["reference"])
        if metadata["extractor"] != self.extractor.checksum:
            raise ValueError(
                f"the reference {self.context.needs['reference']} has features of the extractor "
                f"{metadata['extractor']}, but the generated images would have features of "
                f"{self.extractor.checksum}; use the same weights for both runs"
            )
        return metadata["sha256"]

    def write_file(self, name: str, path: Path) -> None:
        """Write one file of features."""
        kind, indices = self.files[name]
        write_features(path, extract_features(self.extractor, self._batches(kind, indices)))

    def _batches(self, kind: str, indices: range) -> Iterator[Tensor]:
        for start in range(indices.start, indices.stop, self.config.batch):
            images = self.sets[kind][start : min(start + self.config.batch, indices.stop)]
            yield rearrange(torch.from_numpy(images), "b h w c -> b c h w").contiguous()

    def compute_metrics(self, folder: Path) -> Outcome:
        """Compute the metrics from all files, in the order of the images; call on rank 0."""
        files = {
            kind: [name for name, (of, _) in self.files.items() if of == kind] for kind in self.sets
        }
        generated = {}
        for name in (name for name in ARRAYS if name in self.extractor.names):
            moments = RunningMoments(self.device)
            for features in read_features(folder, files[GENERATED], name):
                moments.add(features)
            generated[name] = moments.statistics()
        real = self._real_statistics(folder, files.get(REAL, []))
        self._check_widths(generated, real.statistics)
        metric_names = METRIC_NAMES[self.config.extractor]
        warnings = [*self.extractor.warnings, *warn_of_few_images(generated, "generated")]
        warnings += warn_of_few_images(real.statistics, "reference")
        metrics = {}
        for name, own in generated.items():
            metrics[metric_names[name]] = frechet_distance(own, real.statistics[name])
        logits = np.concatenate(list(read_features(folder, files[GENERATED], LOGITS)))
        metrics[metric_names[LOGITS]] = inception_score(logits)
        pool = np.concatenate(list(read_features(folder, files[GENERATED], POOL)))
        assert real.features is not None
        metrics["precision"], metrics["recall"] = precision_recall(
            pool, real.features, neighbours=self.config.neighbours, device=self.device
        )
        draw_sample_grid(self.context.owned_path(SAMPLE_GRID), self.sets[GENERATED])
        details = {
            "picture": SAMPLE_GRID,
            "warnings": warnings,
            "extractor": self.extractor.checksum,
        }
        return Outcome(metrics=metrics, steps=len(self.files), details=details)

    def _real_statistics(self, folder: Path, files: list[str]) -> ReferenceStatistics:
        """Return the statistics of real images, to which the generated ones are compared."""
        if "reference" in self.context.needs:
            return read_reference(self.context.needs["reference"])[0]
        statistics = read_statistics(self._adm_reference).statistics
        pool = np.concatenate(list(read_features(folder, files, POOL)))
        return ReferenceStatistics(statistics=statistics, features=pool)

    def _check_widths(
        self, generated: Mapping[str, FeatureStatistics], real: Mapping[str, FeatureStatistics]
    ) -> None:
        """Check the number of features in ADM's file; a reference of ours has passed the check of
        its extractor's checksum."""
        for name, s in generated.items():
            shape = real[name].mean.shape if name in real else "nothing"
            if shape != s.mean.shape:
                raise ValueError(
                    f"{self._adm_reference} has {shape} as {ARRAYS[name][0]}; expected "
                    f"{s.mean.shape}, as in ADM's reference batch of ImageNet"
                )
