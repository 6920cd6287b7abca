"""Accuracy over the held-out images, computed on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from dyt_vision.config import Vision
from matched.task import Context
from matched.training import reseed, sum_over_ranks
from matched.training.evaluation import RankSubset


class Accuracy:
    """Top-1 and top-5 accuracy in percent, and the mean cross-entropy."""

    def __init__(
        self, dataset: Dataset[Any], config: Vision, context: Context, device: torch.device
    ) -> None:
        self.subset = RankSubset(dataset, config.eval_batch, context, device)
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
