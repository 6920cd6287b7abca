"""Which samples make up which step: a function of the seed alone, whole batches of every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from matched.config import TrainConfig
from matched.training.seeding import generator, reseed


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """How the batch of an optimiser step is divided over processes and micro-batches."""

    batch: int
    rank: int
    world_size: int
    accumulation: int

    @classmethod
    def of(cls, config: TrainConfig, rank: int, world_size: int) -> BatchLayout:
        """
        Raises:
            ValueError: if the batch does not divide evenly.
        """
        per_process, rest = divmod(config.batch, world_size)
        accumulation = -(-per_process // config.micro_batch)
        if rest or per_process % accumulation:
            raise ValueError(
                f"a batch of {config.batch} does not divide evenly over {world_size} processes and "
                f"{accumulation} accumulation steps; choose batch and micro_batch "
                f"({config.micro_batch}) so that it does"
            )
        return cls(batch=config.batch, rank=rank, world_size=world_size, accumulation=accumulation)

    def parts(self, indices: list[int]) -> list[list[int]]:
        """This process's micro-batches of a step's indices.

        Micro-batches of one process and the processes' shares are laid out so that the same
        samples make up the step however it is divided.
        """
        share = indices[self.rank * self.batch // self.world_size :][
            : self.batch // self.world_size
        ]
        size = len(share) // self.accumulation
        return [share[i : i + size] for i in range(0, len(share), size)]


class EpochSampler(Sampler):
    """Micro-batches of (epoch, index) keys, from optimiser step ``start`` to the last.

    The permutation of an epoch is drawn from (seed, "order", epoch).
    """

    def __init__(
        self, config: TrainConfig, samples: int, batch_layout: BatchLayout, start: int
    ) -> None:
        self.seed = config.seed
        self.samples = samples
        self.batch_layout = batch_layout
        self.start = start
        self.steps_per_epoch = samples // config.batch
        self.steps = self.steps_per_epoch * config.epochs
        if self.steps_per_epoch == 0:
            raise ValueError(f"a batch of {config.batch} is more than the {samples} samples")

    def __len__(self) -> int:
        return (self.steps - self.start) * self.batch_layout.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        permutation: list[int] = []
        epoch_of_permutation = -1
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != epoch_of_permutation:
                source = generator(self.seed, "order", epoch)
                permutation = torch.randperm(self.samples, generator=source).tolist()
                epoch_of_permutation = epoch
            first = position * self.batch_layout.batch
            for part in self.batch_layout.parts(
                permutation[first : first + self.batch_layout.batch]
            ):
                yield [(epoch, index) for index in part]


class SeededDataset(Dataset):
    """A data set whose randomness is a function of (seed, epoch, index)."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        reseed(self.seed, "sample", epoch, index)
        return self.dataset[index]


def make_loader(
    dataset: Dataset, order: EpochSampler, *, num_workers: int, pin: bool
) -> DataLoader:
    """One loader for the whole run: its worker processes live through all epochs."""
    return DataLoader(
        SeededDataset(dataset, order.seed),
        batch_sampler=order,
        num_workers=num_workers,
        pin_memory=pin,
    )


def on_device(value: Any, device: torch.device) -> Any:
    """Tensors in (nested) lists, tuples and dicts, moved to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_device(item, device) for item in value)
    return value
