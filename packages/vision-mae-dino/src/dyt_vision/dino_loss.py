"""DINO's loss (Caron et al. 2021, Section 3.1): cross-entropy, center and teacher temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dyt_vision.config import DINO
from matched.training import sum_over_ranks


def dino_loss(
    student_outputs: Tensor, teacher_probabilities: Tensor, *, temperature: float, crops: int
) -> Tensor:
    """Return the cross-entropy of Caron et al. 2021, Eq. 3, averaged over the pairs of crops.

    A pair is a global crop of the teacher and a different crop of the student.

    Args:
        student_outputs: (crops · B, K), crop by crop, the two global crops first.
        teacher_probabilities: (2 · B, K) of the two global crops, from ``sharpen``.
        temperature: of the student's softmax.
        crops: number of crops of an image.
    """
    log_probabilities = (student_outputs / temperature).log_softmax(dim=-1).chunk(crops)
    losses = [
        -(target * log_probability).sum(dim=-1).mean()
        for i, target in enumerate(teacher_probabilities.chunk(2))
        for j, log_probability in enumerate(log_probabilities)
        if i != j
    ]
    return torch.stack(losses).mean()


def sharpen(teacher_outputs: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Return the teacher's centered and sharpened outputs as probabilities, (N, K).

    Args:
        teacher_outputs: (N, K).
        center: (1, K).
        temperature: of the teacher's softmax, from ``teacher_temperature``.
    """
    return ((teacher_outputs - center) / temperature).softmax(dim=-1)


class OutputMean:
    """Mean of the teacher's outputs over one optimizer step: all micro-batches and processes."""

    def __init__(self, outputs: int) -> None:
        self._sum = torch.zeros(1, outputs)
        self._count = 0

    def add(self, teacher_outputs: Tensor) -> None:
        """Include the outputs (N, K) of a micro-batch."""
        self._sum = self._sum.to(teacher_outputs.device) + teacher_outputs.sum(0, keepdim=True)
        self._count += len(teacher_outputs)

    def reduce(self) -> Tensor:
        """Return the mean (1, K) over all processes and reset it; called by all processes."""
        totals = sum_over_ranks(F.pad(self._sum, (0, 1), value=self._count))
        self._sum, self._count = torch.zeros_like(self._sum), 0
        return totals[:, :-1] / totals[:, -1:]


@torch.no_grad()
def update_center(center: Tensor, mean: Tensor, momentum: float) -> None:
    """Move the center (1, K) in place towards a step's mean output (Caron et al. 2021, Eq. 4)."""
    center.mul_(momentum).add_(mean, alpha=1 - momentum)


def teacher_temperature(epoch: int, config: DINO) -> float:
    """Return the teacher's temperature: linear over the first epochs, then constant."""
    warmup = config.warmup_teacher_temperature_epochs
    if epoch >= warmup:
        return config.teacher_temperature
    start = config.warmup_teacher_temperature
    return start + (config.teacher_temperature - start) * epoch / max(1, warmup - 1)
