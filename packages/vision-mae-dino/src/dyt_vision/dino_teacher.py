"""DINO's teacher: an exponential moving average (EMA) of the student, and both in one module."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyt_vision.config import DINO
from dyt_vision.dino_loss import OutputMean, dino_loss, sharpen, update_center
from dyt_vision.dino_model import MultiCropWrapper


class SelfDistillation(nn.Module):
    """Student, teacher and the center of the teacher's outputs: everything a checkpoint needs.

    The teacher has no gradient and is never in training mode.
    """

    center: Tensor

    def __init__(self, config: DINO, student: MultiCropWrapper) -> None:
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.student_temperature = config.student_temperature
        self.center_momentum = config.center_momentum
        self.register_buffer("center", torch.zeros(1, config.outputs))
        self._output_mean = OutputMean(config.outputs)

    def train(self, mode: bool = True) -> SelfDistillation:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, crops: Sequence[Tensor], teacher_temperature: float) -> Tensor:
        """Return the loss of a micro-batch, a scalar; see ``dino_loss``.

        Args:
            crops: each (B, 3, S, S); the first two are the global ones, which the teacher sees.
            teacher_temperature: of this epoch.
        """
        student_outputs = self.student(crops)
        with torch.no_grad():
            teacher_outputs = self.teacher(crops[:2])
            probabilities = sharpen(teacher_outputs, self.center, teacher_temperature)
            if self.training:
                self._output_mean.add(teacher_outputs)
        return dino_loss(
            student_outputs,
            probabilities,
            temperature=self.student_temperature,
            crops=len(crops),
        )

    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student after an optimizer step."""
        update_ema(self.teacher, self.student, momentum)

    def update_center(self) -> None:
        """Move the center towards the mean output of the step; called by all processes."""
        update_center(self.center, self._output_mean.reduce(), self.center_momentum)


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set θ_t ← m·θ_t + (1 - m)·θ_s for all parameters (Caron et al. 2021, Section 3.1).

    Buffers are copied: they are running statistics, of norm layers that have some.
    """
    averages: list[Tensor] = list(teacher.parameters())
    parameters: list[Tensor] = list(student.parameters())
    torch._foreach_mul_(averages, momentum)
    torch._foreach_add_(averages, parameters, alpha=1 - momentum)
    for target, source in zip(teacher.buffers(), student.buffers(), strict=True):
        target.copy_(source)
