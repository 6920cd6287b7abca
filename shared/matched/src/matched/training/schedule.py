"""Learning-rate schedules of the training loop: linear warm-up, then cosine, step or constant."""

from __future__ import annotations

import math

from matched.config import TrainConfig


def lr_factor(step: float, steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the learning rate of an optimizer step as a fraction of the peak.

    With ``W = round(config.warmup_epochs * steps_per_epoch)`` warm-up steps::

        step < W:    step / W
        "cosine":    f + (1 - f) * (1 + cos(pi * (step - W) / (steps - W))) / 2,
                     where f = config.min_lr / config.lr
        "step":      config.decay_factor ** floor(epoch / config.decay_epochs),
                     where epoch is counted from the start, not from the end of the warm-up
        "constant":  1

    Args:
        step: number of the step, 0-based: the first step of a warm-up has the rate 0.
        steps: total number of steps.
        steps_per_epoch: steps per epoch.
        config: of the run.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.decay_factor ** (step // steps_per_epoch // config.decay_epochs)
    floor = config.min_lr / config.lr
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
