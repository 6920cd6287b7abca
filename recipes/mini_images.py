"""Image sets and networks of the vision tables at mini scale, and the α0 that their widths need."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dyt import Norm, suggested_alpha0
from dyt_vision.config import Supervised
from matched import ArmNorms, Resources


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of a ViT: its width, number of blocks and number of attention heads."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class Images:
    """An image set, and what runs on it change in the paper's recipes.

    Attributes:
        image_size: height and width of the networks' input in pixels.
        patch_size: side of a ViT's patch in pixels.
        common: changes of all runs.
        supervised: further changes of supervised runs.
    """

    image_size: int
    patch_size: int
    common: Mapping[str, Any]
    supervised: Mapping[str, Any] = field(default_factory=dict)


DIGITS = Images(
    image_size=16,
    patch_size=4,
    common={
        "data": "digits",
        "precision": "fp32",
        "batch": 64,
        "micro_batch": 64,
        "crop_ratio": 1.0,
        "flip": 0.0,
        "eval_batch": 360,
        "log_steps": 22,
    },
    supervised={
        "epochs": 100,
        "warmup_epochs": 10,
        "lr": 4e-3,
        "ema_decay": 0.99,
        "crop_scale": (0.7, 1.0),
        "rand_augment": "",
        "mixup": 0.2,
        "cutmix": 0.0,
        "erasing": 0.1,
        "eval_epochs": 20,
    },
)
"""Augmentations that hide a digit or turn it into another one are off."""

VIT_S = Size(width=64, depth=4, heads=4)
VIT_B = Size(width=128, depth=6, heads=4)
VIT_L = Size(width=192, depth=8, heads=6)


def supervised(config: Supervised, images: Images, **changes: Any) -> Supervised:
    """The paper's recipe on an image set, with a fifth of its stochastic depth."""
    return replace(
        config,
        **images.common,
        **images.supervised,
        image_size=images.image_size,
        drop_path=config.drop_path / 5,
        **changes,
    )


def vit(config: Supervised, images: Images, size: Size, **changes: Any) -> Supervised:
    """A ViT of another size, trained by the paper's recipe on an image set."""
    arguments = (
        *config.model_args,
        ("img_size", images.image_size),
        ("patch_size", images.patch_size),
        ("embed_dim", size.width),
        ("depth", size.depth),
        ("num_heads", size.heads),
    )
    return supervised(config, images, model_args=arguments, **changes)


def convnext(config: Supervised, images: Images, dims: tuple[int, ...]) -> Supervised:
    """A ConvNeXt of six blocks with these widths, whose strides suit small images."""
    arguments = (
        ("ls_init_value", 0.1),
        ("patch_size", 2),
        ("output_stride", 8),
        ("depths", (1, 1, 3, 1)),
        ("dims", dims),
    )
    return supervised(config, images, model_args=arguments)


def norms_by_width(widths: Mapping[str, int], norms: Mapping[str, Norm]) -> ArmNorms:
    """The norms of some arms with the α0 of each row's width.

    Args:
        widths: row → width of its network.
        norms: arm name → norm, whose α0 is replaced.
    """
    return ArmNorms(
        by_row={
            row: {arm: replace(norm, alpha0=suggested_alpha0(width)) for arm, norm in norms.items()}
            for row, width in widths.items()
        },
        reason=REASON,
    )


DIGITS_RESOURCES = Resources(
    gpus=1, cpus=4, memory_gb=4, minutes=2, cpu_minutes=10, runs_per_job=20
)
REASON = (
    "the narrower a network, the larger the α0 it needs (CVPR 2025, Tables 11 and 12; ICLR 2025 "
    "submission, Table 7)"
)
