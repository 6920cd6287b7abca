"""Accuracy over the held-out images, computed alike on one process or many."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from dyt_vision.config import Vision
from matched.task import Context
from matched.training import reseed, sum_over_ranks


class Share:
    """One process's share of a data set, in batches.

    Shares that are one image short are filled up with an image that does not count: all processes
    call the model equally often, as they have to where it is sharded.
    """

    def __init__(
        self, dataset: Dataset, config: Vision, context: Context, device: torch.device
    ) -> None:
        count = len(dataset)  # type: ignore[arg-type]
        own = range(context.rank, count, context.world_size)
        self.own = len(own)
        self.indices = [*own, *[0] * (-(-count // context.world_size) - self.own)]
        self.loader = DataLoader(
            Subset(dataset, self.indices),
            config.eval_batch,
            num_workers=context.num_workers,
            pin_memory=device.type == "cuda",
        )


class Accuracy:
    """Top-1 and top-5 accuracy in percent, and the mean cross-entropy."""

    def __init__(
        self, dataset: Dataset, config: Vision, context: Context, device: torch.device
    ) -> None:
        self.share = Share(dataset, config, context, device)
        self.device = device
        self.seed = config.seed

    def __call__(self, model: nn.Module) -> dict[str, float]:
        reseed(self.seed, "evaluation")
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        left = self.share.own
        for image, label in self.share.loader:
            image, label = image.to(self.device, non_blocking=True), label[:left].to(self.device)
            logits = model(image).float()[:left]
            left -= len(label)
            ranked = logits.topk(5, dim=1).indices == label[:, None]
            loss = F.cross_entropy(logits, label, reduction="sum")
            counts = [ranked[:, :1].sum(), ranked.sum(), loss, torch.tensor(len(label))]
            sums += torch.stack([c.to(self.device, torch.float64) for c in counts])
        top1, top5, loss, count = sum_over_ranks(sums).tolist()
        return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": loss / count}
