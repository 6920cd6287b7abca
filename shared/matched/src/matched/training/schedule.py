"""Learning-rate schedules: warm-up, then cosine, step or constant; and that of fms-fsdp."""

from __future__ import annotations

import math

from matched.config import TrainConfig


def lr_factor(step: float, steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the learning rate of an optimizer step as a fraction of the peak.

    With ``W`` warm-up steps (``warmup_steps``), ``f = config.min_lr / config.lr`` and
    ``w = config.warmup_lr / config.lr``::

        step < W:    w + (1 - w) * step / W
        "cosine":    cosine(step - W, T) with T = config.schedule_steps or steps - W; without
                     config.warmup_prefix, cosine(step, T) with T = config.schedule_steps or steps
        "step":      config.decay_factor ** floor(epoch / config.decay_epochs),
                     where epoch is counted from the start, not from the end of the warm-up
        "constant":  1
        "fms-fsdp":  min(1 - (1 - step / V) ** 2, cosine(step, N)) with
                     N = config.schedule_steps or steps and V = min(2000, floor(N / 20)),
                     where the first term is 1 from step V on

    where ``cosine(t, T) = f + (1 - f) * (1 + cos(pi * min(t, T) / T)) / 2``.

    Sources: "cosine" is timm's ``CosineLRScheduler`` with one cycle, ``t_initial`` T,
    ``warmup_lr_init`` config.warmup_lr and its ``warmup_prefix``, stepped after every update, as
    HyenaDNA and Caduceus use it (their ``t_initial`` may be longer than the run). There
    ``warmup_lr_init`` and ``lr_min`` are absolute for every parameter group; here all groups have
    the same fraction of their own peaks. "fms-fsdp" is the schedule of that repository's
    ``main_training_llama.py``, where f is 0.1; LLaMA with DyT was trained with it.

    Args:
        step: number of the step, 0-based: the first step of a warm-up has the rate
            ``config.warmup_lr``.
        steps: total number of steps.
        steps_per_epoch: steps per epoch.
        config: of the run.
    """
    if config.schedule == "fms-fsdp":
        return _fms_fsdp(step, config.schedule_steps or steps, config)
    warmup = warmup_steps(config, steps_per_epoch)
    if step < warmup:
        first = config.warmup_lr / config.lr
        return first + (1 - first) * (step / warmup)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.decay_factor ** (step // steps_per_epoch // config.decay_epochs)
    start = warmup if config.warmup_prefix else 0
    return _cosine(step - start, config.schedule_steps or max(1, steps - start), config)


def warmup_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Return the steps of linear warm-up."""
    return config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)


def check_warmup(config: TrainConfig, steps: int, steps_per_epoch: int) -> None:
    """Check a warm-up in steps of a run in epochs, and in epochs of a run in steps.

    Raises:
        ValueError: if the warm-up is longer than the run.
    """
    warmup = warmup_steps(config, steps_per_epoch)
    if warmup > steps:
        raise ValueError(
            f"the warm-up takes {warmup} steps and the run {steps} ({steps_per_epoch} per epoch); "
            "shorten the warm-up or lengthen the run"
        )


def _cosine(step: float, length: int, config: TrainConfig) -> float:
    floor = config.min_lr / config.lr
    progress = min(1.0, step / length)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _fms_fsdp(step: float, length: int, config: TrainConfig) -> float:
    warmup = max(1, min(2000, length // 20))
    remaining = 1 - min(step, warmup) / warmup
    return min(1 - remaining**2, _cosine(step, length, config))
