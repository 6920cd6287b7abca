"""MAE: parameters, forward pass, loss, gradients and training steps of the masked autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from claims import (
    Claim,
    equal_architectures,
    gradient_difference,
    largest_difference,
    perturb,
    use_checkout,
)
from torch import nn

from dyt import Norm, convert
from dyt_vision.config import MAE
from dyt_vision.mae_model import MaskedAutoencoder

B = MAE(data="imagenet", epochs=800, batch=4096, micro_batch=64, lr=2.4e-3)
L = replace(B, width=1024, depth=24, heads=16)
SMALL = replace(
    B,
    image_size=32,
    patch_size=8,
    width=64,
    depth=3,
    heads=4,
    decoder_width=32,
    decoder_depth=2,
    decoder_heads=4,
)


def official(models_mae: Any, config: MAE) -> nn.Module:
    """Return the official network of the sizes of a config."""
    return models_mae.MaskedAutoencoderViT(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        decoder_embed_dim=config.decoder_width,
        decoder_depth=config.decoder_depth,
        decoder_num_heads=config.decoder_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        norm_pix_loss=True,
    )


def claims(checkout: Path) -> Iterator[Claim]:
    use_checkout(checkout)
    import models_mae

    for name, make, config, norms in (
        ("ViT-B", models_mae.mae_vit_base_patch16, B, 25 + 17),
        ("ViT-L", models_mae.mae_vit_large_patch16, L, 49 + 17),
    ):
        with torch.device("meta"):
            ours, theirs = MaskedAutoencoder(config), make()
        yield from equal_architectures(f"MAE {name}", ours, theirs, norms)
    for norm in (Norm.own(), Norm.dyt(0.5)):
        yield from small_network(models_mae, norm)


def small_network(models_mae: Any, norm: Norm) -> Iterator[Claim]:
    """Yield claims about a small network with a norm."""
    torch.manual_seed(0)
    theirs = official(models_mae, SMALL)
    convert(theirs, norm)
    perturb(theirs)
    ours = MaskedAutoencoder(SMALL)
    convert(ours, norm)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(4, 3, 32, 32)
    patches = (SMALL.image_size // SMALL.patch_size) ** 2

    def losses(step: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(step)  # theirs draws the mask itself
        a = theirs(images, mask_ratio=SMALL.mask_ratio)
        torch.manual_seed(step)
        b = ours(images, torch.rand(len(images), patches))
        return list(b), list(a)

    b, a = losses(0)
    yield Claim(
        text=f"MAE, {norm}: loss, prediction and mask",
        bound=0,
        measured=largest_difference(b, a),
        note=f"loss {a[0].item():.4f}",
    )
    a[0].backward()
    b[0].backward()
    yield Claim(
        text=f"MAE, {norm}: gradients",
        bound=0,
        measured=gradient_difference(ours, theirs),
    )
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (theirs, ours)]
    differences = []
    for step in range(1, 6):
        b, a = losses(step)
        for loss, optimizer in ((a[0], optimizers[0]), (b[0], optimizers[1])):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        differences.append(abs(a[0].item() - b[0].item()))
    yield Claim(
        text=f"MAE, {norm}: losses of five AdamW steps",
        bound=0,
        measured=max(differences),
    )
