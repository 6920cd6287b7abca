"""The authors' release of DyT: its layer, and its conversion of timm's networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from claims import Claim, equal, largest_difference, perturb, relative_gradients, use_checkout

from dyt import DyT, Norm, convert

LAYER, NETWORK = 1e-6, 1e-5
"""Bounds: rounding of the formula's kernel, and of a network of it."""
NETWORKS = ("vit_tiny_patch16_224", "convnext_atto")


def claims(checkout: Path) -> Iterator[Claim]:
    use_checkout(checkout)
    from dynamic_tanh import DynamicTanh, convert_ln_to_dyt

    for channels_last in (True, False):
        yield from layer(DynamicTanh, channels_last)
    for name in NETWORKS:
        yield from network(name, convert_ln_to_dyt)


def layer(official: type[torch.nn.Module], channels_last: bool) -> Iterator[Claim]:
    """Yield claims about a layer's output and gradients."""
    torch.manual_seed(0)
    theirs = official(48, channels_last, 0.5)
    perturb(theirs)
    ours = DyT(48, alpha0=0.5, channel_axis=-1 if channels_last else 1)
    ours.load_state_dict(theirs.state_dict())
    shape = (3, 5, 7, 48) if channels_last else (3, 48, 5, 7)
    inputs = [(2 * torch.randn(shape, generator=seeded())).requires_grad_() for _ in range(2)]
    outputs = [model(x) for model, x in zip((ours, theirs), inputs, strict=True)]
    for output in outputs:
        (output * torch.randn(shape, generator=seeded())).sum().backward()
    name = f"DyT, channels {'last' if channels_last else 'at axis 1'}"
    yield Claim(
        text=f"{name}: output", bound=LAYER, measured=largest_difference(*([o] for o in outputs))
    )
    difference = largest_difference(*([x.grad] for x in inputs))
    yield Claim(text=f"{name}: gradient of the input", bound=LAYER, measured=difference)
    yield Claim(
        text=f"{name}: gradients of α, γ and β, relative to each tensor's largest",
        bound=LAYER,
        measured=relative_gradients(ours, theirs),
    )


def network(name: str, convert_ln_to_dyt: object) -> Iterator[Claim]:
    """Yield claims about a converted network of timm."""
    ours, theirs = (timm.create_model(name, num_classes=10) for _ in range(2))
    report = convert(ours, Norm.dyt(0.5))
    theirs = convert_ln_to_dyt(theirs)
    names = [list(model.state_dict()) for model in (ours, theirs)]
    yield equal(f"{name}, converted: names of all parameters", *names, note=f"{len(report)} layers")
    perturb(theirs)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224, generator=seeded())
    with torch.no_grad():
        outputs = [model.eval()(images) for model in (ours, theirs)]
    yield Claim(
        text=f"{name}, converted: output relative to its largest",
        bound=NETWORK,
        measured=largest_difference(outputs[:1], outputs[1:]) / outputs[1].abs().max().item(),
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)
