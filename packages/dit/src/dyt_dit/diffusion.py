"""The diffusion: noise added, the loss that learns to remove it, and sampling step by step.

Gaussian diffusion with a linear schedule (Ho et al. 2020, arXiv 2006.11239), noise predicted and
variance learned (Nichol and Dhariwal 2021, arXiv 2102.09672, Section 3.1), as in the DiT paper.
The sampler's steps are diffusers'; it has no variational bound, and rounds the schedule to
float32, so that its smallest noise levels are off by 2e-4 of them: tables here are of float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noised latents (B, C, H, W), t (B,), labels (B,)) → (B, 2C, H, W)."""

FIRST, LAST = 1e-4, 0.02
"""The variances β of the first and of the last step, for a thousand steps."""

GUIDED = 3
"""Channels that guidance applies to: the DiT release's choice, which its reported FIDs rest on."""


class Diffusion:
    """A forward process of ``steps`` steps.

    Attributes:
        betas: variance added by each step, float64 (steps,).
    """

    def __init__(self, steps: int) -> None:
        scale = 1000 / steps  # so that the last step leaves as little of the image
        self.steps = steps
        self.betas = np.linspace(scale * FIRST, scale * LAST, steps, dtype=np.float64)
        kept = np.cumprod(1 - self.betas)
        before = np.append(1.0, kept[:-1])
        posterior = self.betas * (1 - before) / (1 - kept)
        self.tables = {
            "signal": np.sqrt(kept),
            "noise": np.sqrt(1 - kept),
            "mean_of_image": self.betas * np.sqrt(before) / (1 - kept),
            "mean_of_noised": (1 - before) * np.sqrt(1 - self.betas) / (1 - kept),
            # Before the first step there is no noise, so that its variance is 0: the next one's.
            "log_smallest": np.log(np.append(posterior[1:2], posterior[1:])),
            "log_largest": np.log(self.betas),
        }
        self._on_device: dict[torch.device, dict[str, Tensor]] = {}

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """q(x_t | x_0): images (B, C, H, W) after step ``t`` (B,), from 0."""
        return self._at("signal", t) * x + self._at("noise", t) * noise

    def losses(
        self, output: Tensor, x: Tensor, noised: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two terms of the hybrid loss of each image (Nichol and Dhariwal 2021, Eq. 16).

        Args:
            output: the network's (B, 2C, H, W).
            x, noised, noise: (B, C, H, W).
            t: (B,).

        Returns:
            The squared error of the noise (B,), and the term of the variational bound in bits per
            dimension (B,), which moves the variance alone: the mean is detached in it.
        """
        predicted, between = output.float().chunk(2, dim=1)
        squared = (noise - predicted).square().flatten(1).mean(dim=1)
        mean, log_variance = self._step(predicted.detach(), between, noised, t)
        true_mean = self._posterior_mean(x, noised, t)
        kl = _normal_kl(true_mean, self._at("log_smallest", t), mean, log_variance)
        first = -_discretised_log_likelihood(x, mean, 0.5 * log_variance)
        bits = torch.where(t == 0, _mean(first), _mean(kl)) / math.log(2)
        return squared, bits

    def scheduler(self, steps: int) -> DDPMScheduler:
        """Diffusers' ancestral sampler over ``steps`` of the steps, evenly spread."""
        made = DDPMScheduler(
            num_train_timesteps=self.steps,
            trained_betas=self.betas,
            variance_type="learned_range",
            clip_sample=False,
            timestep_spacing="linspace",
        )
        made.betas = torch.from_numpy(self.betas)
        made.alphas = 1 - made.betas
        made.alphas_cumprod = made.alphas.cumprod(dim=0)
        made.set_timesteps(steps)
        return made

    def _step(
        self, predicted: Tensor, between: Tensor, noised: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the network's step back from ``noised``."""
        x = (noised - self._at("noise", t) * predicted) / self._at("signal", t)
        share = (between + 1) / 2
        smallest, largest = self._at("log_smallest", t), self._at("log_largest", t)
        return self._posterior_mean(x, noised, t), share * largest + (1 - share) * smallest

    def _posterior_mean(self, x: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        return self._at("mean_of_image", t) * x + self._at("mean_of_noised", t) * noised

    def _at(self, name: str, t: Tensor) -> Tensor:
        """A table's values at steps (B,), as float32 (B, 1, 1, 1)."""
        if t.device not in self._on_device:
            self._on_device[t.device] = {
                key: torch.from_numpy(table).float().to(t.device)
                for key, table in self.tables.items()
            }
        return self._on_device[t.device][name][t][:, None, None, None]


def guided(model: Predictor, scale: float, no_label: int) -> Predictor:
    """``model`` with classifier-free guidance: ``scale`` times the way from no label to a label."""

    def predict(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        none = torch.full_like(labels, no_label)
        both = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, none]))
        output, unlabelled = both.chunk(2)
        count = min(GUIDED, x.shape[1])  # behind the noise stand the variances
        noise, plain = output[:, :count], unlabelled[:, :count]
        return torch.cat([plain + scale * (noise - plain), output[:, count:]], dim=1)

    return predict


@torch.no_grad()
def sample(
    model: Predictor,
    scheduler: DDPMScheduler,
    labels: Tensor,
    shape: tuple[int, int, int],
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Images of the given classes, (B, *shape), by ancestral sampling.

    Args:
        scheduler: of ``Diffusion.scheduler``.
        labels: (B,), on the device to compute on.
        shape: (C, H, W).
        generators: one for each image, on the CPU: its first noise and that of every step.
    """
    first = [torch.randn(shape, generator=source) for source in generators]
    x = torch.stack(first).to(labels.device)
    for t in scheduler.timesteps:
        output = model(x, t.expand(len(x)).to(x.device), labels)
        x = scheduler.step(output, int(t), x, list(generators), return_dict=False)[0]
    return x


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)


def _normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other: Tensor) -> Tensor:
    """KL divergence of one normal distribution from another, in nats."""
    apart = (mean - other_mean).square() * torch.exp(-other)
    return 0.5 * (other - log_variance - 1 + torch.exp(log_variance - other) + apart)


def _normal_cdf(x: Tensor) -> Tensor:
    """As a tanh of a cubic, the approximation that the diffusion papers' codes share."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-likelihood of 8-bit values scaled to [-1, 1], each its bin of a normal distribution
    (Ho et al. 2020, Eq. 13)."""
    inverse, half_bin, least = torch.exp(-log_scale), 1 / 255, 1e-12
    above = _normal_cdf(inverse * (x - mean + half_bin))
    below = _normal_cdf(inverse * (x - mean - half_bin))
    inside = torch.log((above - below).clamp(min=least))
    upmost = torch.log((1 - below).clamp(min=least))
    inside = torch.where(x > 0.999, upmost, inside)
    return torch.where(x < -0.999, torch.log(above.clamp(min=least)), inside)
