"""Accuracy over the held-out images, computed on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from dyt_vision.config import Vision
from matched.task import Context
from matched.training import reseed, sum_over_ranks


class RankSubset:
    """One process's part of a data set, in batches.

    Parts that are one image short are padded with an image that does not count, so that all
    processes call the model equally often, which sharded models require.

    Attributes:
        count: images that count; they come before the padding.
        indices: of all images in the data set, padding included.
        loader: batches of ``eval_batch`` images.
    """

    def __init__(
        self, dataset: Dataset[Any], config: Vision, context: Context, device: torch.device
    ) -> None:
        total = len(dataset)  # type: ignore[arg-type]  # Dataset declares no len()
        own = range(context.rank, total, context.world_size)
        self.count = len(own)
        self.indices = [*own, *[0] * (-(-total // context.world_size) - self.count)]
        self.loader = DataLoader(
            Subset(dataset, self.indices),
            config.eval_batch,
            num_workers=context.num_workers,
            pin_memory=device.type == "cuda",
        )


class Accuracy:
    """Top-1 and top-5 accuracy in percent, and the mean cross-entropy."""

    def __init__(
        self, dataset: Dataset[Any], config: Vision, context: Context, device: torch.device
    ) -> None:
        self.subset = RankSubset(dataset, config, context, device)
        self.device = device
        self.seed = config.seed

    def __call__(self, model: nn.Module) -> dict[str, float]:
        reseed(self.seed, "evaluation")
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        remaining = self.subset.count
        for image, label in self.subset.loader:
            image = image.to(self.device, non_blocking=True)
            label = label[:remaining].to(self.device)
            logits = model(image).float()[:remaining]
            remaining -= len(label)
            correct = logits.topk(5, dim=1).indices == label[:, None]
            loss = F.cross_entropy(logits, label, reduction="sum")
            counts = [correct[:, :1].sum(), correct.sum(), loss, torch.tensor(len(label))]
            sums += torch.stack([c.to(self.device, torch.float64) for c in counts])
        top1, top5, loss, total = sum_over_ranks(sums).tolist()
        return {"top1": 100 * top1 / total, "top5": 100 * top5 / total, "loss": loss / total}
