"""Base class of training configs: the fields that the shared training loop reads."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from matched.checks import check_choice, check_counts

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "bf16-params", "bf16-reduce")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length and optimization of a training run; domains inherit from it and add their fields.

    Attributes:
        seed: seed of all random numbers.
        epochs: passes over the training set; the last incomplete batch of each is dropped.
        steps: optimizer steps, instead of ``epochs``: a fraction of an epoch, or several epochs of
            which the last may be incomplete. They take steps · batch samples.
        batch: samples per optimizer step, over all processes and accumulation steps.
        micro_batch: largest number of samples in one forward pass of a process; the loop
            accumulates gradients over as many micro-batches as ``batch`` takes.
        lr: peak learning rate, after warm-up; not scaled any further.
        min_lr: learning rate at the end of a "cosine" or "fms-fsdp" schedule.
        warmup_epochs: epochs of linear warm-up.
        warmup_steps: optimizer steps of linear warm-up, instead of ``warmup_epochs``.
        warmup_lr: learning rate of the first step of the warm-up.
        schedule: after the warm-up, "cosine" from lr to min_lr, "constant" at lr, or "step":
            multiplied by ``decay_factor`` every ``decay_epochs``, counted from the start.
            "fms-fsdp" is a cosine with its own warm-up. Formulas: ``matched.training.schedule``.
        schedule_steps: steps after which the cosine of "cosine" or "fms-fsdp" reaches min_lr; None
            for the last step. More than the run has ends the run at a higher rate.
        warmup_prefix: the steps of "cosine" are counted from the end of the warm-up; False counts
            them from the start, so that the rate drops where the warm-up ends.
        decay_epochs: epochs between two decays; used by the "step" schedule only.
        decay_factor: factor of each decay; used by the "step" schedule only.
        weight_decay: applied to parameters of two or more dimensions, unless the domain chooses
            others.
        betas: of AdamW.
        clip_norm: largest gradient norm; None disables clipping.
        precision: "fp32", "tf32" (for matrix products and convolutions, on GPUs that support it),
            or mixed precision: autocast to "bf16" or "fp16" (with loss scaling). Sharded runs have
            "bf16-params", which gathers parameters and keeps activations in bfloat16, while
            gradients are reduced and weights updated in float32; and "bf16-reduce", which reduces
            gradients in bfloat16 too.
        ema_decay: decay of the exponential moving average of the weights; None keeps no average.
        eval_epochs: epochs between evaluations; there is always one after the last step.
        eval_steps: optimizer steps between evaluations, instead of ``eval_epochs``.
        log_steps: optimizer steps between lines of metrics.jsonl.
    """

    seed: int = 0
    epochs: int | None = None
    steps: int | None = None
    batch: int
    micro_batch: int
    lr: float
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    schedule: Literal["cosine", "constant", "step", "fms-fsdp"] = "cosine"
    schedule_steps: int | None = None
    warmup_prefix: bool = True
    decay_epochs: int = 30
    decay_factor: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    precision: Literal["fp32", "tf32", "bf16", "fp16", "bf16-params", "bf16-reduce"] = "fp32"
    ema_decay: float | None = None
    eval_epochs: int = 1
    eval_steps: int | None = None
    log_steps: int = 50

    def __post_init__(self) -> None:
        self._check_length()
        self._check_schedule()
        if not self.weight_decay >= 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"weight_decay {self.weight_decay} and betas {self.betas}: expected 0 or more, "
                "and two numbers from 0 to below 1"
            )
        check_choice(self, "precision", PRECISIONS)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; expected a positive number or None")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; expected a number between 0 and 1")

    def accumulation(self, world_size: int) -> int:
        """Return the micro-batches of a process per step: as few as ``micro_batch`` allows.

        Raises:
            ValueError: if the batch does not divide evenly.
        """
        per_process, rest = divmod(self.batch, world_size)
        accumulation = -(-per_process // self.micro_batch)
        if rest or per_process % accumulation:
            raise ValueError(
                f"a batch of {self.batch} does not divide evenly over {world_size} processes and "
                f"{accumulation} accumulation steps; choose batch and micro_batch "
                f"({self.micro_batch}) so that it does"
            )
        return accumulation

    def _check_length(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"epochs is {self.epochs} and steps {self.steps}; expected exactly one of them"
            )
        check_counts(self, "epochs" if self.steps is None else "steps", "batch", "micro_batch")
        check_counts(self, "eval_epochs", "log_steps", "decay_epochs")
        if self.eval_steps is not None:
            check_counts(self, "eval_steps")
            if self.eval_epochs != 1:
                raise ValueError(
                    f"eval_epochs is {self.eval_epochs} and eval_steps {self.eval_steps}; "
                    "expected at most one of them"
                )

    def _check_schedule(self) -> None:
        if not self.lr > 0 or not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"lr {self.lr} and min_lr {self.min_lr}: expected 0 <= min_lr <= lr")
        check_choice(self, "schedule", ("cosine", "constant", "step", "fms-fsdp"))
        self._check_warmup()
        if self.schedule_steps is not None:
            check_counts(self, "schedule_steps")
            if self.schedule not in ("cosine", "fms-fsdp"):
                raise ValueError(
                    f"schedule_steps is {self.schedule_steps}, but the schedule {self.schedule!r} "
                    "has no length; expected None"
                )
        if not 0 < self.decay_factor <= 1:
            raise ValueError(f"decay_factor is {self.decay_factor}; expected above 0, at most 1")

    def _check_warmup(self) -> None:
        if type(self.warmup_steps) is not int or self.warmup_steps < 0:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps!r}; expected a whole number of 0 or more"
            )
        if self.warmup_epochs and self.warmup_steps:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} and warmup_steps {self.warmup_steps}; "
                "expected at most one of them"
            )
        if not 0 <= self.warmup_epochs <= (inf if self.epochs is None else self.epochs):
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}; expected 0 to epochs ({self.epochs})"
            )
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; expected 0 to steps ({self.steps})"
            )
        if not 0 <= self.warmup_lr <= self.lr:
            raise ValueError(f"warmup_lr is {self.warmup_lr}; expected 0 to lr ({self.lr})")
        if self.schedule == "fms-fsdp" and (self.warmup_epochs or self.warmup_steps):
            raise ValueError(
                'the schedule "fms-fsdp" has its own warm-up; set warmup_epochs and warmup_steps '
                "to 0"
            )
