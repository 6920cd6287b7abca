"""DiT's sampler: timesteps, a step of each, and whole chains with and without guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from claims import Claim, equal, largest_difference, perturb, use_checkout
from torch import Tensor

from dyt_dit import release_weights
from dyt_dit.config import Network
from dyt_dit.diffusion import Diffusion, classifier_free_guidance, sample
from dyt_dit.model import DiffusionTransformer

STEP, CHAIN = 1e-6, 5e-6
"""Bounds of one step and of a chain, relative to the largest value."""
NETWORK = Network(input_size=8, patch_size=4, width=64, depth=2, heads=4)
SHAPE = (4, 8, 8)
IMAGES = 3


def claims(checkout: Path) -> Iterator[Claim]:
    use_checkout(checkout)
    from diffusion import create_diffusion

    for steps in (50, 250, 1000):
        theirs, ours = create_diffusion(str(steps)), Diffusion(1000).scheduler(steps)
        found = ours.timesteps.tolist()[::-1]
        yield equal(
            f"DiT's sampler, {steps} steps: timesteps", found, theirs.timestep_map, f"{steps}"
        )
    yield single_steps(create_diffusion("250"))
    for scale in (1.0, 1.5):
        yield chain(create_diffusion("50"), scale)


def noise_of(sources: Sequence[torch.Generator]) -> Callable[[Tensor], Tensor]:
    """Return a replacement for torch.randn_like with one generator per image.

    The official loop has every image twice if it is guided; only the first copy is used.
    """

    def draw(x: Tensor) -> Tensor:
        noise = torch.stack([torch.randn(SHAPE, generator=source) for source in sources])
        return noise.repeat(len(x) // len(sources), 1, 1, 1)

    return draw


def seeded() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(IMAGES)]


def single_steps(official: Any) -> Claim:
    """Return the claim about every step of a sampler of 250 steps, from random inputs."""
    scheduler = Diffusion(1000).scheduler(250)
    generator = torch.Generator().manual_seed(9)
    differences = []
    for position, t in enumerate(reversed(scheduler.timesteps.tolist())):
        x = torch.randn(IMAGES, *SHAPE, generator=generator)
        output = torch.randn(IMAGES, 8, 8, 8, generator=generator)
        with mock.patch.object(torch, "randn_like", noise_of(seeded())):
            step = torch.full((IMAGES,), position)
            predict = lambda *_, output=output: output  # noqa: E731
            theirs = official.p_sample(predict, x, step, clip_denoised=False)["sample"]
        ours = scheduler.step(output, t, x, seeded(), return_dict=False)[0]
        differences.append(largest_difference([ours], [theirs]) / theirs.abs().max().item())
    return Claim(
        text="DiT's sampler, each of 250 steps, relative to the largest value",
        bound=STEP,
        measured=max(differences),
    )


def chain(official: Any, scale: float) -> Claim:
    """Return the claim about the latents after all steps, by a network with random weights."""
    from models import DiT

    torch.manual_seed(0)
    theirs = DiT(
        input_size=8, patch_size=4, hidden_size=64, depth=2, num_heads=4, num_classes=1000
    ).eval()
    perturb(theirs)
    ours = DiffusionTransformer(NETWORK).eval()
    release_weights.load_state_dict(ours, theirs.state_dict(), "the official network")
    labels = torch.tensor([5, 17, 999])
    predictor = ours if scale == 1 else classifier_free_guidance(ours, scale, 1000)
    scheduler = Diffusion(1000).scheduler(official.num_timesteps)
    found = sample(predictor, scheduler, labels, SHAPE, seeded())
    # As sample_ddp.py does it.
    draw = noise_of(seeded())
    start = draw(torch.empty(IMAGES))
    arguments: dict[str, Any] = {"y": labels}
    method = theirs.forward
    if scale > 1:
        start = torch.cat([start, start])
        arguments = {"y": torch.cat([labels, torch.full_like(labels, 1000)]), "cfg_scale": scale}
        method = theirs.forward_with_cfg
    with mock.patch.object(torch, "randn_like", draw), torch.no_grad():
        latents = official.p_sample_loop(
            method, start.shape, start, clip_denoised=False, model_kwargs=arguments, device="cpu"
        )
    expected = latents[:IMAGES]
    return Claim(
        text=f"DiT's sampler, latents after {official.num_timesteps} steps, guidance {scale}, "
        "relative to the largest value",
        bound=CHAIN,
        measured=largest_difference([found], [expected]) / expected.abs().max().item(),
        note=f"largest {expected.abs().max().item():.1f}",
    )
