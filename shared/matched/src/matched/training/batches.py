"""Batches: the samples of each optimizer step, determined by the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from matched.config import TrainConfig
from matched.training.order import EpochOrder
from matched.training.seeding import generator, reseed


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Division of an optimizer step's batch over processes and micro-batches.

    Attributes:
        batch: samples per optimizer step, over all processes.
        rank, world_size: this process and the number of processes.
        accumulation: micro-batches per process and optimizer step.
    """

    batch: int
    rank: int
    world_size: int
    accumulation: int

    @classmethod
    def of(cls, config: TrainConfig, rank: int, world_size: int) -> BatchLayout:
        """Use as few micro-batches of at most ``config.micro_batch`` samples as possible.

        Raises:
            ValueError: if the batch does not divide evenly.
        """
        return cls(
            batch=config.batch,
            rank=rank,
            world_size=world_size,
            accumulation=config.accumulation(world_size),
        )

    def micro_batches(self, indices: list[int]) -> list[list[int]]:
        """Return this process's micro-batches of the sample indices of one step.

        Processes take contiguous shares in the order of ranks, and micro-batches are contiguous
        within a share: the step has the same samples however it is divided.
        """
        per_process = self.batch // self.world_size
        share = indices[self.rank * self.batch // self.world_size :][:per_process]
        size = len(share) // self.accumulation
        return [share[i : i + size] for i in range(0, len(share), size)]


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batch sampler of micro-batches of (epoch, index) keys, from step ``start`` to the last step.

    The permutation of an epoch is drawn from (seed, "order", epoch). The last incomplete batch of
    each epoch is dropped. A run with ``config.steps`` may end within an epoch.
    """

    def __init__(
        self, config: TrainConfig, samples: int, batch_layout: BatchLayout, start: int
    ) -> None:
        self.seed = config.seed
        self.samples = samples
        self.batch_layout = batch_layout
        self.start = start
        self.steps_per_epoch = samples // config.batch
        if self.steps_per_epoch == 0:
            raise ValueError(f"a batch of {config.batch} is more than the {samples} samples")
        if config.steps is not None:
            self.steps = config.steps
        else:
            assert config.epochs is not None, "TrainConfig has one of both"
            self.steps = self.steps_per_epoch * config.epochs

    def __len__(self) -> int:
        return (self.steps - self.start) * self.batch_layout.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order: EpochOrder | None = None
        size = self.batch_layout.batch
        for step in range(self.start, self.steps):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            if order is None or step_in_epoch == 0:
                order = EpochOrder(self.seed, epoch, self.samples)
            for indices in self.batch_layout.micro_batches(order.part(step_in_epoch * size, size)):
                yield [(epoch, index) for index in indices]


class SeededDataset(Dataset[Any]):
    """Wrapper that seeds all global generators from (seed, epoch, index) before each sample."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        reseed(self.seed, "sample", epoch, index)
        return self.dataset[index]


def seeded_batch(dataset: Dataset[Any], count: int, seed: int, purpose: str) -> Any:
    """Return a collated batch of ``count`` samples that depends on seed and purpose alone.

    It has all samples, in random order, if there are not more than these. Seeds the global
    generators.
    """
    samples = len(dataset)  # type: ignore[arg-type]  # Dataset declares no len()
    chosen = torch.randperm(samples, generator=generator(seed, purpose))[:count]
    seeded = SeededDataset(dataset, seed)
    return default_collate([seeded[0, index] for index in chosen.tolist()])


def make_loader(
    dataset: Dataset[Any], sampler: EpochSampler, *, num_workers: int, pin: bool
) -> DataLoader[Any]:
    """Create one loader for the whole run: its worker processes are kept through all epochs."""
    return DataLoader(
        SeededDataset(dataset, sampler.seed),
        batch_sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin,
    )


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors in (nested) lists, tuples and dicts to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value
