"""Sequences of a benchmark task for training, validation and test, and the accuracy on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from dyt_hyenadna.config import BenchmarkFineTuning
from dyt_hyenadna.datasets import BenchmarkSequences
from dyt_hyenadna.genomic_benchmarks import TASKS
from matched.task import Context
from matched.training import sum_over_ranks
from matched.training.evaluation import FixedSamples, RankSubset
from matched.training.fingerprint import batch_digest
from matched.training.seeding import generator

VALIDATION_SHARE = 0.1
"""Share of a task's training set that a split holds out (Caduceus, Section 5.2.1)."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Sequences of a task with their labels.

    Attributes:
        valid: None if the whole training set is used for training.
        classes: number of labels.
        checksum: hash of the test sequences and labels, which both arms of a pair must share.
    """

    train: Dataset[Any]
    valid: Dataset[Any] | None
    test: Dataset[Any]
    classes: int
    checksum: str


def load_task(context: Context, config: BenchmarkFineTuning) -> TaskData:
    """Return the sequences of the task that ``config`` names.

    Raises:
        ValueError: if no preparation is named, it has no such task, or a split would be empty.
    """
    if "benchmarks" not in context.needs:
        raise ValueError('fine-tuning needs a preparation of the tasks under the name "benchmarks"')
    if config.max_length is None and config.task not in TASKS:
        raise ValueError(
            f"max_length is None and task {config.task!r}; set it, or name a task of "
            f"GenomicBenchmarks: {', '.join(TASKS)}"
        )
    length = config.max_length or TASKS[config.task].max_length

    def sequences(split: str, *, evaluated: bool) -> BenchmarkSequences:
        flip = config.flip if config.flip_evaluation or not evaluated else 0.0
        return BenchmarkSequences(
            context.needs["benchmarks"],
            config.task,
            split,
            length,
            flip=flip,
            both_strands=evaluated and getattr(config, "conjoin", False),
            cut_before_flip=config.cut_before_flip,
            upper_case=config.upper_case,
        )

    train, test = sequences("train", evaluated=False), sequences("test", evaluated=True)
    train_indices, valid_indices = split_indices(len(train), config)
    valid = None
    if valid_indices:
        valid = Subset(sequences("train", evaluated=True), valid_indices)
    return TaskData(
        train=Subset(train, train_indices),
        valid=valid,
        test=test,
        classes=len(test.classes),
        checksum=batch_digest(
            [torch.from_numpy(np.array(array)) for array in (test.letters, test.ends, test.labels)]
        ),
    )


def split_indices(samples: int, config: BenchmarkFineTuning) -> tuple[list[int], list[int]]:
    """Return the indices of the training and of the validation sequences, in a random order.

    The order is drawn from the split's seed alone: runs with another ``seed`` and all arms share
    it. Without a split the validation set is empty.

    Raises:
        ValueError: if one of the two sets would be empty.
    """
    source = generator(config.split or 0, "split")
    order = torch.randperm(samples, generator=source).tolist()
    held_out = 0 if config.split is None else round(VALIDATION_SHARE * samples)
    valid, train = order[:held_out], order[held_out:]
    if config.train_samples is not None:
        train = train[: config.train_samples]
    if not train or (config.split is not None and not valid):
        raise ValueError(
            f"{config.task} has {samples} training sequences, too few for a split into training "
            "and validation"
        )
    return train, valid


class AccuracyEvaluation:
    """Accuracy of validation and test in percent, and the test loss."""

    def __init__(
        self, data: TaskData, config: BenchmarkFineTuning, context: Context, device: torch.device
    ) -> None:
        sets = {"": data.test} if data.valid is None else {"": data.test, "val_": data.valid}
        self.subsets = {
            prefix: RankSubset(
                FixedSamples(dataset, config.seed), config.eval_batch, context, device
            )
            for prefix, dataset in sets.items()
        }
        self.device = device

    def __call__(self, model: nn.Module) -> dict[str, float]:
        metrics = {}
        for prefix, subset in self.subsets.items():
            correct, loss, total = self._sums(model, subset).tolist()
            metrics[f"{prefix}accuracy"] = 100 * correct / total
            if not prefix:
                metrics["loss"] = loss / total
        return metrics

    def _sums(self, model: nn.Module, subset: RankSubset) -> Tensor:
        """Return the number of correct labels, the summed loss and the number of sequences."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        remaining = subset.count
        for ids, labels in subset.loader:
            logits = predict(model, ids.to(self.device, non_blocking=True)).float()[:remaining]
            labels = labels.to(self.device)[:remaining]
            remaining -= len(labels)
            loss = F.cross_entropy(logits, labels, reduction="sum")
            correct = (logits.argmax(-1) == labels).sum()
            sums += torch.stack([correct.double(), loss.double(), loss.new_tensor(len(labels))])
        return sum_over_ranks(sums)


def predict(model: nn.Module, ids: Tensor) -> Tensor:
    """Return logits ``(B, classes)`` of ids ``(B, L)``, or of both strands ``(B, 2, L)``."""
    logits: Tensor = model(ids) if ids.ndim == 2 else model(ids[:, 0], ids[:, 1])
    return logits
