"""Held-out data of evaluations: the same samples every time, divided over the processes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from matched.task import Context
from matched.training.batches import start_method
from matched.training.seeding import reseed


class RankSubset:
    """One process's part of a data set, in batches.

    Parts that are one sample short are padded with a sample that does not count, so that all
    processes call the model equally often, which sharded models require.

    Attributes:
        count: samples that count; they come before the padding.
        indices: of all samples in the data set, padding included.
        loader: batches of ``batch`` samples.
    """

    def __init__(
        self, dataset: Dataset[Any], batch: int, context: Context, device: torch.device
    ) -> None:
        total = len(dataset)  # type: ignore[arg-type]  # Dataset declares no len()
        own = range(context.rank, total, context.world_size)
        self.count = len(own)
        self.indices = [*own, *[0] * (-(-total // context.world_size) - self.count)]
        self.loader = DataLoader(
            Subset(dataset, self.indices),
            batch,
            num_workers=context.num_workers,
            multiprocessing_context=start_method(context.num_workers),
            pin_memory=device.type == "cuda",
        )


class FixedSamples(Dataset[Any]):
    """Wrapper whose samples are the same in every evaluation, although the data set draws them.

    All global generators are seeded from (seed, "evaluation", index) before each sample.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # Dataset declares no len()

    def __getitem__(self, index: int) -> Any:
        reseed(self.seed, "evaluation", index)
        return self.dataset[index]
