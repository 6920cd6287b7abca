"""Caduceus, PH and PS: parameters, logits, losses, gradients and training steps.

The official network is that of the checkout with Mamba's official modules, whose kernels need a GPU
and are replaced by their reference formulas (stand_ins/mamba_on_cpu.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dna_official
import torch
import torch.nn.functional as F
from claims import Claim, equal, largest_difference, train_side_by_side
from torch import Tensor, nn

from dyt import Norm
from dyt_caduceus import weights
from dyt_caduceus.model import build_language_model, convert_norms, optimizer_groups
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna.tokenizer import COMPLEMENT, MASK, PAD

EXACT, STEPS = 1e-5, 3e-6
"""Bounds of the documentation: logits, loss and gradients; losses of ten steps."""
LR = 1e-3
COUNTS = {  # width, layers, variant → norm layers, parameters
    (118, 4, "ph"): (5, 470_702),
    (118, 4, "ps"): (5, 470_702),
    (256, 8, "ps"): (9, 3_864_832),
}


def claims(checkout: Path) -> Iterator[Claim]:
    dna_official.prepare(checkout)
    for (width, layers, variant), (norms, count) in COUNTS.items():
        network = CaduceusNetwork(width=width, layers=layers, variant=variant)
        yield from architecture(network, norms, count)
    for variant, exchange in (("ph", False), ("ps", False), ("ps", True)):
        yield from one_pass(variant, exchange)
    for variant in ("ph", "ps"):
        for norm in (Norm.own(), Norm.dyt(0.5)):
            yield ten_steps(variant, norm)


class OfficialModel(nn.Module):
    """Official masked language model that returns logits alone."""

    def __init__(self, network: CaduceusNetwork, *, fused: bool = False) -> None:
        from caduceus.configuration_caduceus import CaduceusConfig
        from caduceus.modeling_caduceus import CaduceusForMaskedLM

        super().__init__()
        config = CaduceusConfig(
            d_model=network.width,
            n_layer=network.layers,
            vocab_size=12,
            rms_norm=True,
            fused_add_norm=fused,
            residual_in_fp32=False,
            pad_vocab_size_multiple=8,
            initializer_cfg={"initializer_range": 0.02, "rescale_prenorm_residual": True},
            bidirectional_weight_tie=True,
            rcps=network.variant == "ps",
            complement_map={i: int(COMPLEMENT[i]) for i in range(12)},
            pad_token_id=PAD,
        )
        self.model = CaduceusForMaskedLM(config)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids, return_dict=True).logits


def pair(
    network: CaduceusNetwork, norm: Norm | None = None, *, fused: bool = False
) -> tuple[nn.Module, OfficialModel]:
    """Return our network and the official one with the same weights, none of which is 0 or 1."""
    torch.manual_seed(0)
    theirs, ours = OfficialModel(network, fused=fused), build_language_model(network, 0)
    for model in (theirs, ours):
        if norm is not None:
            convert_norms(model, norm)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1 and not name.endswith("alpha"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "embedding" in name:
                parameter.normal_(std=0.1)
    weights.load_state(ours, theirs.model.state_dict(), "the official network")
    return ours, theirs


def architecture(network: CaduceusNetwork, norms: int, count: int) -> Iterator[Claim]:
    """Yield claims about names, shapes, parameters and norm layers."""
    torch.manual_seed(0)
    theirs, ours = OfficialModel(network), build_language_model(network, 0)
    name = f"Caduceus-{network.variant.upper()} d{network.width}, {network.layers} layers"
    shapes = [
        {key: tuple(tensor.shape) for key, tensor in state.items()}
        for state in (
            weights.official_state(ours.state_dict(), "huggingface"),
            theirs.model.state_dict(),
        )
    ]
    yield equal(f"{name}: names and shapes of all parameters", *shapes, note=f"{count:,}")
    yield equal(f"{name}: parameters", count, sum(p.numel() for p in theirs.parameters()))
    found = len(convert_norms(theirs, Norm.dyt(0.5)))
    yield equal(f"{name}: norm layers that `convert` finds", norms, found)


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids (2, 64) with masks, and targets that are [PAD] elsewhere."""
    source = torch.Generator().manual_seed(step)
    ids = torch.randint(7, 11, (2, 64), generator=source)
    hidden = torch.rand(ids.shape, generator=source) < 0.15
    return ids.masked_fill(hidden, MASK), ids.masked_fill(~hidden, PAD)


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)


def one_pass(variant: Any, exchange: bool) -> Iterator[Claim]:
    """Yield claims about logits, loss and gradients."""
    network = CaduceusNetwork(width=118, layers=4, variant=variant, strand_exchange=exchange)
    ours, theirs = pair(network, fused=exchange)
    ids, targets = batch()
    logits = [model(ids) for model in (ours, theirs)]
    losses = [masked_loss(output, targets) for output in logits]
    for loss in losses:
        loss.backward()
    name = f"Caduceus-{variant.upper()}{', the fused path' if exchange else ''}"
    largest = f"largest {logits[1].abs().max().item():.1f}"
    difference = largest_difference(logits[:1], logits[1:])
    yield Claim(text=f"{name}: logits", bound=EXACT, measured=difference, note=largest)
    difference = largest_difference(losses[:1], losses[1:])
    yield Claim(text=f"{name}: loss", bound=EXACT, measured=difference)
    yield Claim(
        text=f"{name}: gradients, relative to each tensor's largest",
        bound=EXACT,
        measured=gradients(ours, theirs),
    )


def gradients(ours: nn.Module, theirs: OfficialModel) -> float:
    """Return the largest relative difference of the gradients of parameters of the same name."""
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    named = weights.official_state(found, "huggingface")
    expected = {n: p.grad for n, p in theirs.model.named_parameters() if p.grad is not None}
    assert named.keys() == expected.keys(), named.keys() ^ expected.keys()
    return max(
        largest_difference([named[name]], [gradient]) / gradient.abs().max().item()
        for name, gradient in expected.items()
    )


def ten_steps(variant: Any, norm: Norm) -> Claim:
    """Return the claim about ten steps with the official optimizer's groups.

    Adam's eps is 1e-6: with 1e-8 it divides gradients that are only rounding by their own size.
    """
    network = CaduceusNetwork(width=48, layers=2, variant=variant)
    ours, theirs = pair(network, norm)
    groups = optimizer_groups(ours, lr=LR, weight_decay=0.1, official=True)
    optimizers = (
        torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95)),
        dna_official.trainer_optimizer(theirs, theirs.model, LR),
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["eps"] = 1e-6

    def loss_of(model: nn.Module, step: int) -> Tensor:
        ids, targets = batch(step)
        return masked_loss(model(ids), targets)

    pairs = list(zip((ours, theirs), optimizers, strict=True))
    difference, last = train_side_by_side(pairs, loss_of)
    return Claim(
        text=f"Caduceus-{variant.upper()}, {norm}: losses of ten AdamW steps (eps 1e-6)",
        bound=STEPS,
        measured=difference,
        note=f"last loss {last:.4f}",
    )
