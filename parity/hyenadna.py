"""HyenaDNA: parameters, logits, losses, gradients and training steps, with LayerNorm and DyT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dna_official
import torch
import torch.nn.functional as F
from claims import (
    Claim,
    equal_architectures,
    largest_difference,
    perturb,
    relative_gradients,
    train_side_by_side,
)
from torch import Tensor, nn

from dyt import Norm, convert
from dyt_hyenadna.model import build_classifier, build_language_model
from dyt_hyenadna.network_config import HyenaNetwork
from dyt_hyenadna.optimizer_groups import optimizer_groups

LOGITS, LOSS, GRADIENTS, STEPS = 1e-5, 1e-6, 1e-5, 1e-6
"""Bounds of the documentation, for equal weights in float32."""
SIZES = {(128, 2): (5, "d128, 2 layers"), (256, 4): (9, "d256, 4 layers")}
"""Width and layers → norm layers and name."""
LENGTHS = ((128, 200), (256, 256), (128, 1024), (128, 4096))
"""Widths and lengths of the forward and backward passes."""
CLASSES = 3
LR = 1e-3


def claims(checkout: Path) -> Iterator[Claim]:
    dna_official.prepare(checkout)
    for (width, layers), (norms, name) in SIZES.items():
        network = HyenaNetwork(width=width, layers=layers)
        ours, theirs = build_language_model(network, 0), dna_official.language_model(network)
        yield from equal_architectures(f"HyenaDNA {name}", ours, theirs, norms)
    for width, length in LENGTHS:
        yield from one_pass(width, length)
    for norm in (Norm.own(), Norm.dyt(0.5)):
        for kind in ("language model", "classifier"):
            yield ten_steps(norm, kind)


def pair(network: HyenaNetwork, norm: Norm, kind: str) -> tuple[nn.Module, nn.Module]:
    """Return our network and the official one, converted, with equal weights and no dropout."""
    torch.manual_seed(0)
    if kind == "classifier":
        ours: nn.Module = build_classifier(network, CLASSES, 0)
        theirs = dna_official.classifier(network, CLASSES, filter_lr=LR)
    else:
        ours, theirs = build_language_model(network, 0), dna_official.language_model(network, LR)
    for model in (ours, theirs):
        convert(model, norm)
    ours.load_state_dict(theirs.state_dict())
    if kind == "language model":
        theirs = dna_official.OfficialLogits(theirs)
    return ours.eval(), theirs.eval()


def one_pass(width: int, length: int) -> Iterator[Claim]:
    """Yield claims about logits, loss and gradients of the language model."""
    network = HyenaNetwork(width=width, layers=2, max_length=length + 2)
    ours, theirs = pair(network, Norm.own(), "language model")
    # Larger values in the filters, whose frequencies are 10, would amplify rounding.
    perturb(theirs, without="implicit_filter")
    ours.load_state_dict(theirs.model.state_dict())
    ids = torch.randint(7, 12, (2, length))
    logits, losses = [], []
    for model in (ours, theirs):
        logits.append(model(ids))
        losses.append(next_token_loss(logits[-1], ids))
        losses[-1].backward()
    name = f"HyenaDNA d{width}, length {length:,}"
    largest = logits[1].abs().max().item()
    yield Claim(
        text=f"{name}: logits",
        bound=LOGITS,
        measured=largest_difference(logits[:1], logits[1:]),
        note=f"largest {largest:.1f}",
    )
    yield Claim(
        text=f"{name}: loss", bound=LOSS, measured=largest_difference(losses[:1], losses[1:])
    )
    yield Claim(
        text=f"{name}: gradients, relative to each tensor's largest",
        bound=GRADIENTS,
        measured=relative_gradients(ours, theirs.model),
    )


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def ten_steps(norm: Norm, kind: str) -> Claim:
    """Return the claim about the losses of ten steps with the official optimizer's groups."""
    network = HyenaNetwork(width=64, layers=2, max_length=130)
    ours, theirs = pair(network, norm, kind)
    part = theirs.model if kind == "language model" else theirs.backbone
    optimizers = (
        torch.optim.AdamW(
            optimizer_groups(ours, lr=LR, weight_decay=0.1, official=True), betas=(0.9, 0.95)
        ),
        dna_official.trainer_optimizer(theirs, part, LR),
    )

    def loss_of(model: nn.Module, step: int) -> Tensor:
        source = torch.Generator().manual_seed(step)
        ids = torch.randint(7, 12, (8, 128), generator=source)
        labels = torch.randint(CLASSES, (8,), generator=source)
        if kind == "classifier":
            return F.cross_entropy(model(ids), labels)
        return next_token_loss(model(ids), ids)

    pairs = list(zip((ours, theirs), optimizers, strict=True))
    difference, last = train_side_by_side(pairs, loss_of)
    return Claim(
        text=f"HyenaDNA {kind}, {norm}: losses of ten AdamW steps with the official groups",
        bound=STEPS,
        measured=difference,
        note=f"last loss {last:.4f}",
    )
