"""DiT: parameters, forward pass, both terms of the loss, and sampler steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from claims import Claim, equal, largest_difference, perturb, use_checkout

from dyt import Norm, convert
from dyt_dit import release_weights
from dyt_dit.config import Network
from dyt_dit.diffusion import Diffusion
from dyt_dit.model import DiffusionTransformer

LOSS = 3e-6
"""Bound of the documentation for both terms of the loss."""
SIZES = {"B/4": (4, 768, 12, 12), "L/4": (4, 1024, 24, 16), "XL/2": (2, 1152, 28, 16)}
DEPTH = 2
"""Blocks of the networks that are run; the documentation says "at reduced depth"."""


def claims(checkout: Path) -> Iterator[Claim]:
    use_checkout(checkout)
    from diffusion import create_diffusion
    from models import DiT, DiT_models

    for name, (patch, width, depth, heads) in SIZES.items():
        network = Network(patch_size=patch, width=width, depth=DEPTH, heads=heads)
        with torch.device("meta"):
            large = DiT_models[f"DiT-{name}"]()
        count = sum(p.numel() for p in large.parameters())
        found = len(convert(large))
        yield equal(f"DiT-{name}: norm layers", 2 * depth + 1, found, note=f"{count:,} parameters")
        torch.manual_seed(0)
        theirs = DiT(
            input_size=32, patch_size=patch, hidden_size=width, depth=DEPTH, num_heads=heads
        ).eval()
        perturb(theirs)
        ours = DiffusionTransformer(network).eval()
        release_weights.load_state_dict(ours, theirs.state_dict(), "the official network")
        x, t = torch.randn(2, 4, 32, 32), torch.tensor([3, 700])
        labels = torch.tensor([5, 1000])
        with torch.no_grad():
            difference = largest_difference([ours(x, t, labels)], [theirs(x, t, labels)])
        yield Claim(text=f"DiT-{name}, {DEPTH} blocks: output", bound=0, measured=difference)
        if name == "B/4":
            for model in (ours, theirs):
                convert(model, Norm.dyt(0.5))
            with torch.no_grad():
                difference = largest_difference([ours(x, t, labels)], [theirs(x, t, labels)])
            yield Claim(text="DiT-B/4 with DyT: output", bound=0, measured=difference)
    yield from losses(create_diffusion)


def losses(create_diffusion: object) -> Iterator[Claim]:
    """Yield claims about both terms of the loss at every timestep."""
    theirs = create_diffusion(timestep_respacing="")
    ours = Diffusion(1000)
    generator = torch.Generator().manual_seed(0)
    largest = [0.0, 0.0]
    for first in range(0, 1000, 50):
        t = torch.arange(first, first + 50)
        x = torch.randn(50, 4, 4, 4, generator=generator)
        noise = torch.randn(50, 4, 4, 4, generator=generator)
        output = torch.randn(50, 8, 4, 4, generator=generator)
        terms = theirs.training_losses(lambda *_, output=output: output, x, t, noise=noise)
        squared, bits = ours.losses(output, x, ours.noised(x, t, noise), t, noise)
        largest[0] = max(largest[0], largest_difference([squared], [terms["mse"]]))
        scale = terms["vb"].abs().clamp_min(1.0)
        largest[1] = max(largest[1], largest_difference([bits / scale], [terms["vb"] / scale]))
    names = ("squared error", "variational bound, relative above 1")
    for name, measured in zip(names, largest, strict=True):
        yield Claim(text=f"DiT: {name} at every timestep", bound=LOSS, measured=measured)
