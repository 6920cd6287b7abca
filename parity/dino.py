"""DINO: backbone, head, loss with its center, and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from claims import (
    Claim,
    equal_architectures,
    gradient_difference,
    largest_difference,
    perturb,
    use_checkout,
)
from torch import distributed, nn

from dyt import Norm, convert
from dyt_vision.config import DINO
from dyt_vision.dino_loss import dino_loss, sharpen, update_center
from dyt_vision.dino_model import Backbone, DINOHead, MultiCropWrapper

FORWARD = 3e-6
"""Bound of the documentation for equal weights in float32."""
B16 = DINO(data="imagenet", epochs=400, batch=1024, micro_batch=32, lr=3e-3)
SMALL = replace(
    B16,
    image_size=32,
    patch_size=8,
    width=64,
    depth=3,
    heads=4,
    outputs=48,
    head_width=64,
    bottleneck=32,
    local_size=16,
    drop_path=0.0,
)


def claims(checkout: Path) -> Iterator[Claim]:
    use_checkout(checkout)
    import vision_transformer

    ln = partial(nn.LayerNorm, eps=1e-6)
    for patch in (16, 8):
        theirs = vision_transformer.vit_base(patch_size=patch)  # reads values, so not on meta
        with torch.device("meta"):
            ours = Backbone(replace(B16, patch_size=patch))
        yield from equal_architectures(f"DINO ViT-B/{patch}", ours, theirs, 25, "the backbone")
    for norm in (Norm.own(), Norm.dyt(0.5)):
        torch.manual_seed(0)
        theirs = vision_transformer.VisionTransformer(
            img_size=[32], patch_size=8, embed_dim=64, depth=3, num_heads=4, qkv_bias=True,
            norm_layer=ln,
        )  # fmt: skip
        convert(theirs, norm)
        perturb(theirs)
        ours = Backbone(SMALL)
        convert(ours, norm)
        ours.load_state_dict(theirs.state_dict())
        for size in (32, 16, 48):
            images = torch.randn(4, 3, size, size)
            yield Claim(
                text=f"DINO, {norm}: class token of images of {size} pixels",
                bound=FORWARD,
                measured=largest_difference([ours(images)], [theirs(images)]),
            )
        yield from head_and_loss(norm, ours, theirs)


def head_and_loss(norm: Norm, backbone: nn.Module, official: nn.Module) -> Iterator[Claim]:
    """Yield claims about head, loss, gradients and center, on equal backbones."""
    import main_dino
    import utils
    import vision_transformer

    their_head = vision_transformer.DINOHead(64, 48, hidden_dim=64, bottleneck_dim=32)
    perturb(their_head)
    our_head = DINOHead(SMALL)
    our_head.load_state_dict(their_head.state_dict())
    theirs = utils.MultiCropWrapper(official, their_head)
    ours = MultiCropWrapper(backbone, our_head)
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    loss = main_dino.DINOLoss(48, 4, 0.04, 0.07, 3, 10)
    loss.center.normal_(std=0.1)
    center = loss.center.clone()
    crops = [torch.randn(5, 3, size, size) for size in (32, 32, 16, 16)]
    teacher = torch.randn(2 * 5, 48)
    expected = loss(theirs(crops), teacher, 1)
    probabilities = sharpen(teacher, center, loss.teacher_temp_schedule[1])
    measured = dino_loss(ours(crops), probabilities, temperature=0.1, crops=4)
    yield Claim(
        text=f"DINO, {norm}: loss over four crops",
        bound=FORWARD,
        measured=largest_difference([measured], [expected]),
        note=f"loss {expected.item():.4f}",
    )
    expected.backward()
    measured.backward()
    yield Claim(
        text=f"DINO, {norm}: gradients of that loss",
        bound=FORWARD,
        measured=gradient_difference(ours, theirs),
    )
    update_center(center, teacher.mean(0, keepdim=True), 0.9)
    yield Claim(
        text=f"DINO, {norm}: center after a step",
        bound=FORWARD,
        measured=largest_difference([center], [loss.center]),
    )
