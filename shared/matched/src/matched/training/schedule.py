"""Learning-rate schedules of the shared loop: warm-up, cosine, step and constant."""

from __future__ import annotations

import math

from matched.config import TrainConfig


def lr_factor(step: float, steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Learning rate of optimiser step ``step`` (0-based) as a share of the peak.

    Linear warm-up from 0, then half a cosine from the peak to ``min_lr``, steps, or constant.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.decay_factor ** (step // steps_per_epoch // config.decay_epochs)
    floor = config.min_lr / config.lr
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
