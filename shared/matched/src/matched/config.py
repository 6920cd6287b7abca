"""Base class of training configs: the fields that the shared training loop reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matched.checks import check_choice, check_counts


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length and optimization of a training run; domains inherit from it and add their fields.

    Attributes:
        seed: seed of all random numbers.
        epochs: passes over the training set; the last incomplete batch of each is dropped.
        batch: samples per optimizer step, over all processes and accumulation steps.
        micro_batch: largest number of samples in one forward pass of a process; the loop
            accumulates gradients over as many micro-batches as ``batch`` takes.
        lr: peak learning rate, after warm-up; not scaled any further.
        min_lr: learning rate at the end of a cosine schedule.
        warmup_epochs: epochs of linear warm-up from 0.
        schedule: after the warm-up, "cosine" from lr to min_lr, "constant" at lr, or "step":
            multiplied by ``decay_factor`` every ``decay_epochs``, counted from the start.
        decay_epochs: epochs between two decays; used by the "step" schedule only.
        decay_factor: factor of each decay; used by the "step" schedule only.
        weight_decay: applied to parameters of two or more dimensions, unless the domain chooses
            others.
        betas: of AdamW.
        clip_norm: largest gradient norm; None disables clipping.
        precision: "fp32", "tf32" (for matrix products and convolutions, on GPUs that support it),
            or mixed precision with "bf16" or "fp16" (with loss scaling).
        ema_decay: decay of the exponential moving average of the weights; None keeps no average.
        eval_epochs: epochs between evaluations; the last epoch is always evaluated.
        log_steps: optimizer steps between lines of metrics.jsonl.
    """

    seed: int = 0
    epochs: int
    batch: int
    micro_batch: int
    lr: float
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    decay_epochs: int = 30
    decay_factor: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    ema_decay: float | None = None
    eval_epochs: int = 1
    log_steps: int = 50

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "batch", "micro_batch", "eval_epochs", "log_steps")
        check_counts(self, "decay_epochs")
        if not self.lr > 0 or not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"lr {self.lr} and min_lr {self.min_lr}: expected 0 <= min_lr <= lr")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}; expected 0 to epochs ({self.epochs})"
            )
        if not self.weight_decay >= 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"weight_decay {self.weight_decay} and betas {self.betas}: expected 0 or more, "
                "and two numbers from 0 to below 1"
            )
        check_choice(self, "schedule", ("cosine", "constant", "step"))
        if not 0 < self.decay_factor <= 1:
            raise ValueError(f"decay_factor is {self.decay_factor}; expected above 0, at most 1")
        check_choice(self, "precision", ("fp32", "tf32", "bf16", "fp16"))
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; expected a positive number or None")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; expected a number between 0 and 1")
