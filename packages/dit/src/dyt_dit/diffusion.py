"""Gaussian diffusion: noise schedule, hybrid loss, classifier-free guidance and sampler.

The noise schedule is linear (Ho et al. 2020, arXiv 2006.11239); the network predicts the noise and
learns the variance (Nichol and Dhariwal 2021, arXiv 2102.09672, Section 3.1), as in the DiT paper.
The sampler's steps are diffusers'. Diffusers has no variational bound and rounds the schedule to
float32, which changes its smallest noise levels by a relative 2e-4; the tables here are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noised latents (B, C, H, W), t (B,), labels (B,)) → (B, 2C, H, W)."""

BETA_FIRST, BETA_LAST = 1e-4, 0.02
"""Variances β of the first and of the last step, for a thousand steps."""

GUIDED_CHANNELS = 3
"""Channels that guidance applies to: the DiT release's choice, used for its reported FIDs."""


class Diffusion:
    """A forward process of ``steps`` steps with a linear noise schedule.

    Attributes:
        betas: variance added by each step, float64 (steps,).
    """

    def __init__(self, steps: int) -> None:
        scale = 1000 / steps  # keeps the signal left after the last step independent of `steps`
        self.steps = steps
        self.betas = np.linspace(scale * BETA_FIRST, scale * BETA_LAST, steps, dtype=np.float64)
        kept = np.cumprod(1 - self.betas)
        before = np.append(1.0, kept[:-1])
        posterior = self.betas * (1 - before) / (1 - kept)
        self.tables = {
            "signal": np.sqrt(kept),
            "noise": np.sqrt(1 - kept),
            "mean_of_image": self.betas * np.sqrt(before) / (1 - kept),
            "mean_of_noised": (1 - before) * np.sqrt(1 - self.betas) / (1 - kept),
            # The posterior variance of the first step is 0, as there is no noise before it; use
            # that of the second step.
            "log_smallest": np.log(np.append(posterior[1:2], posterior[1:])),
            "log_largest": np.log(self.betas),
        }
        self._on_device: dict[torch.device, dict[str, Tensor]] = {}

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Sample q(x_t | x_0): images (B, C, H, W) after step ``t`` (B,), counted from 0."""
        return self._at("signal", t) * x + self._at("noise", t) * noise

    def losses(
        self, output: Tensor, x: Tensor, noised: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the two terms of the hybrid loss of each image (Nichol and Dhariwal 2021, Eq. 16).

        Args:
            output: output of the network (B, 2C, H, W).
            x: images or latents (B, C, H, W).
            noised: ``x`` after step ``t`` of the forward process (B, C, H, W).
            t: (B,).
            noise: the noise in ``noised`` (B, C, H, W).

        Returns:
            The mean squared error of the noise (B,), and the term of the variational bound in bits
            per dimension (B,). The mean is detached in the latter, so it trains only the variance.
        """
        predicted, interpolation = output.float().chunk(2, dim=1)
        squared = (noise - predicted).square().flatten(1).mean(dim=1)
        mean, log_variance = self._step(predicted.detach(), interpolation, noised, t)
        true_mean = self._posterior_mean(x, noised, t)
        kl = _normal_kl(true_mean, self._at("log_smallest", t), mean, log_variance)
        first = -_discretized_log_likelihood(x, mean, 0.5 * log_variance)
        bits = torch.where(t == 0, _mean(first), _mean(kl)) / math.log(2)
        return squared, bits

    def scheduler(self, steps: int) -> DDPMScheduler:
        """Return diffusers' ancestral sampler (DDPM) over ``steps`` evenly spaced steps."""
        # Any: diffusers sets a scheduler's attributes without declaring them.
        scheduler: Any = DDPMScheduler(
            num_train_timesteps=self.steps,
            trained_betas=self.betas,
            variance_type="learned_range",
            clip_sample=False,
            timestep_spacing="linspace",
        )
        scheduler.betas = torch.from_numpy(self.betas)
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = scheduler.alphas.cumprod(dim=0)
        scheduler.set_timesteps(steps)
        return scheduler

    def _step(
        self, predicted: Tensor, interpolation: Tensor, noised: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the predicted reverse step from ``noised``.

        Args:
            predicted: the predicted noise.
            interpolation: the predicted position of the log-variance between its bounds, -1 to 1.
        """
        x = (noised - self._at("noise", t) * predicted) / self._at("signal", t)
        share = (interpolation + 1) / 2
        smallest, largest = self._at("log_smallest", t), self._at("log_largest", t)
        return self._posterior_mean(x, noised, t), share * largest + (1 - share) * smallest

    def _posterior_mean(self, x: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        return self._at("mean_of_image", t) * x + self._at("mean_of_noised", t) * noised

    def _at(self, name: str, t: Tensor) -> Tensor:
        """Return a table's values at steps ``t`` (B,), as float32 (B, 1, 1, 1)."""
        if t.device not in self._on_device:
            self._on_device[t.device] = {
                key: torch.from_numpy(table).float().to(t.device)
                for key, table in self.tables.items()
            }
        return self._on_device[t.device][name][t][:, None, None, None]


def classifier_free_guidance(model: Predictor, scale: float, no_label: int) -> Predictor:
    """Return ``model`` with classifier-free guidance: the noise predicted without a label, plus
    ``scale`` times the difference that the label makes.

    As in the DiT release (``forward_with_cfg``), only the first ``GUIDED_CHANNELS`` channels of the
    noise are guided.
    """

    def predict(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        dropped = torch.full_like(labels, no_label)
        both = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, dropped]))
        output, unlabeled = both.chunk(2)
        count = min(GUIDED_CHANNELS, x.shape[1])  # the channels after the noise are variances
        noise, unlabeled_noise = output[:, :count], unlabeled[:, :count]
        noise = unlabeled_noise + scale * (noise - unlabeled_noise)
        return torch.cat([noise, output[:, count:]], dim=1)

    return predict


@torch.no_grad()
def sample(
    model: Predictor,
    scheduler: Any,
    labels: Tensor,
    shape: tuple[int, int, int],
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return latents (B, *shape) of the given classes by ancestral sampling.

    Args:
        scheduler: DDPMScheduler, from ``Diffusion.scheduler``; diffusers does not declare its
            attributes and methods.
        labels: (B,), on the device to compute on.
        shape: (C, H, W).
        generators: one CPU generator per image, for its initial noise and that of every step.
    """
    noise = [torch.randn(shape, generator=source) for source in generators]
    x = torch.stack(noise).to(labels.device)
    for t in scheduler.timesteps:
        output = model(x, t.expand(len(x)).to(x.device), labels)
        x = scheduler.step(output, int(t), x, list(generators), return_dict=False)[0]
    return x


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)


def _normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """Return the KL divergence KL(N1 ‖ N2) of two normal distributions, in nats."""
    distance = (mean1 - mean2).square() * torch.exp(-log_var2)
    return 0.5 * (log_var2 - log_var1 - 1 + torch.exp(log_var1 - log_var2) + distance)


def _normal_cdf(x: Tensor) -> Tensor:
    """Approximate the normal CDF by a tanh of a cubic, as the code of the diffusion papers does."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log-likelihood of 8-bit values scaled to [-1, 1] under a discretized normal
    distribution (Ho et al. 2020, Eq. 13). The two outermost bins are open."""
    inverse, half_bin, smallest = torch.exp(-log_scale), 1 / 255, 1e-12
    cdf_upper = _normal_cdf(inverse * (x - mean + half_bin))
    cdf_lower = _normal_cdf(inverse * (x - mean - half_bin))
    inner_bin = torch.log((cdf_upper - cdf_lower).clamp(min=smallest))
    last_bin = torch.log((1 - cdf_lower).clamp(min=smallest))
    first_bin = torch.log(cdf_upper.clamp(min=smallest))
    return torch.where(x < -0.999, first_bin, torch.where(x > 0.999, last_bin, inner_bin))
