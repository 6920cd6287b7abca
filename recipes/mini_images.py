"""Image sets of the vision tables at mini scale, their networks, and the α0 that widths need.

The tables run on scikit-learn's digits, or with ``SET=data=cifar100`` or ``SET=data=tiny-imagenet``
on a folder that site.toml names.

The learning rates of the digits are LN's best on seed 100, which no table has. For vit_s top-1 is
97.8, 98.3 and 97.8 % with 2e-3, 4e-3 and 8e-3; for vit_b 98.1, 98.9 and 98.1 % with 1e-3, 2e-3 and
4e-3. At its rate vit_s reaches 97.2 % after 40 epochs, 98.1 after 80 and 98.3 after 100. ViT-L and
the MLP-Mixer take the rate of vit_b, the ConvNeXts that of vit_s. No arm has a rate of its own.
Every other setting is that of smoke scale, with twice its batch. α0 follows the rule for widths,
and has not been tuned. The settings of the two folders are common ones, not tuned either.
docs/LOG.md has the numbers.

Minutes on a core are estimates: CPU time of a training step, measured on a core that other programs
shared, times the steps. Those on a GPU are guesses. ``WITH=Derf`` adds Derf with DyT's α0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dyt import Norm, suggested_alpha0
from dyt_vision.config import Arguments, Supervised
from matched import ArmNorms, Resources, Scale


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of a ViT or an MLP-Mixer: its width, number of blocks and number of attention heads."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class Images:
    """An image set: what runs on it change in the papers' recipes, and the networks for it.

    Attributes:
        data: name of the data source.
        image_size: height and width of the networks' input in pixels.
        patch_size: side of a ViT's patch in pixels.
        settings: changes of a supervised run.
        rates: row → learning rate, of the networks that have their own.
        vits: row → size of its ViT or MLP-Mixer.
        convnexts: row → widths of the stages of its ConvNeXt.
        resources: of one supervised run, on a GPU.
        cpu_minutes: row → expected minutes of its runs on a CPU core; empty if they need a GPU.
        note: printed under the tables.
    """

    data: str
    image_size: int
    patch_size: int
    settings: Mapping[str, Any]
    rates: Mapping[str, float] = field(default_factory=dict)
    vits: Mapping[str, Size]
    convnexts: Mapping[str, tuple[int, int, int, int]]
    resources: Resources
    cpu_minutes: Mapping[str, int] = field(default_factory=dict)
    note: str

    def resources_of(self, row: str) -> Resources:
        """The resources of a supervised run of a row."""
        return replace(self.resources, cpu_minutes=self.cpu_minutes.get(row, 0))

    def width(self, row: str) -> int:
        """The width that gives α0; that of a ConvNeXt is its third stage's, which is the deepest.

        Raises:
            KeyError: if the set has no network of that name.
        """
        return self.convnexts[row][2] if row in self.convnexts else self.vits[row].width


SEEDS = (0, 1, 2, 3, 4)

DIGITS = Images(
    data="digits",
    image_size=16,
    patch_size=4,
    settings={
        "precision": "fp32",
        "batch": 64,
        "micro_batch": 64,
        "epochs": 100,
        "warmup_epochs": 10,
        "lr": 4e-3,
        "ema_decay": 0.99,
        "crop_scale": (0.7, 1.0),
        "crop_ratio": 1.0,
        # Augmentations that hide a digit or turn it into another one are off.
        "flip": 0.0,
        "rand_augment": "",
        "mixup": 0.2,
        "cutmix": 0.0,
        "erasing": 0.1,
        "eval_epochs": 20,
        "eval_batch": 360,
        "log_steps": 22,
    },
    rates={"vit_b": 2e-3, "vit_l": 2e-3, "mixer_b": 2e-3},
    vits={
        "vit_s": Size(width=64, depth=4, heads=4),
        "vit_b": Size(width=128, depth=6, heads=4),
        "vit_l": Size(width=192, depth=8, heads=6),
        "mixer_b": Size(width=128, depth=6, heads=1),
    },
    convnexts={"convnext_b": (32, 64, 128, 256), "convnext_l": (48, 96, 192, 384)},
    resources=Resources(gpus=1, cpus=4, memory_gb=4, minutes=2, runs_per_job=20),
    cpu_minutes={
        "vit_s": 4,
        "vit_b": 8,
        "vit_l": 15,
        "mixer_b": 7,
        "convnext_b": 8,
        "convnext_l": 11,
    },
    note="Digits of 16 × 16 pixels for 100 epochs.",
)

CIFAR100 = Images(
    data="cifar100",
    image_size=32,
    patch_size=4,
    settings={
        "precision": "bf16",
        "batch": 512,
        "micro_batch": 512,
        "epochs": 100,
        "warmup_epochs": 10,
        "lr": 1e-3,
        "ema_decay": 0.999,
        "crop_scale": (0.5, 1.0),
        "crop_ratio": 1.0,
        "eval_epochs": 20,
        "eval_batch": 500,
    },
    vits={
        "vit_s": Size(width=192, depth=6, heads=3),
        "vit_b": Size(width=256, depth=8, heads=4),
        "vit_l": Size(width=384, depth=8, heads=6),
        "mixer_b": Size(width=256, depth=8, heads=1),
    },
    convnexts={"convnext_b": (48, 96, 192, 384), "convnext_l": (64, 128, 256, 512)},
    resources=Resources(gpus=1, cpus=16, memory_gb=4, minutes=10, runs_per_job=10),
    note="CIFAR-100 at 32 × 32 pixels for 100 epochs.",
)

TINY_IMAGENET = replace(
    CIFAR100,
    data="tiny-imagenet",
    image_size=64,
    patch_size=8,
    resources=replace(CIFAR100.resources, minutes=20),
    note="Tiny ImageNet at 64 × 64 pixels for 100 epochs.",
)


def on_every_set(scale: Callable[[Images], Scale]) -> Scale:
    """A table's mini scale: on the digits, or on another set that the command line names."""
    others = {images.data: scale(images) for images in (CIFAR100, TINY_IMAGENET)}
    return replace(scale(DIGITS), on_data=others)


def supervised(config: Supervised, images: Images, row: str, **changes: Any) -> Supervised:
    """A row's recipe on an image set, with a fifth of the paper's stochastic depth."""
    settings = {**images.settings, "lr": images.rates.get(row, images.settings["lr"])}
    return replace(
        config,
        **settings,
        data=images.data,
        image_size=images.image_size,
        drop_path=config.drop_path / 5,
        **changes,
    )


def vit_arguments(config: Supervised, images: Images, size: Size) -> Arguments:
    """The arguments of timm's ViT for a network of another size, and those that it has already."""
    return (
        *config.model_args,
        ("img_size", images.image_size),
        ("patch_size", images.patch_size),
        ("embed_dim", size.width),
        ("depth", size.depth),
        ("num_heads", size.heads),
    )


def vit(config: Supervised, images: Images, row: str) -> Supervised:
    """A row's ViT in the size of an image set."""
    arguments = vit_arguments(config, images, images.vits[row])
    return supervised(config, images, row, model_args=arguments)


def mixer(config: Supervised, images: Images, row: str) -> Supervised:
    """A row's MLP-Mixer in the size of an image set."""
    size = images.vits[row]
    arguments = (
        ("img_size", images.image_size),
        ("patch_size", images.patch_size),
        ("num_blocks", size.depth),
        ("embed_dim", size.width),
    )
    small = replace(config, model="timm.models.mlp_mixer:MlpMixer")
    return supervised(small, images, row, model_args=arguments)


def convnext(config: Supervised, images: Images, row: str) -> Supervised:
    """A row's ConvNeXt in the size of an image set: six blocks, strides for small images."""
    arguments = (
        ("ls_init_value", 0.1),
        ("patch_size", 2),
        ("output_stride", 8),
        ("depths", (1, 1, 3, 1)),
        ("dims", images.convnexts[row]),
    )
    return supervised(config, images, row, model_args=arguments)


REASON = (
    "the narrower a network, the larger the α0 it needs (CVPR 2025, Tables 11 and 12; ICLR 2025 "
    "submission, Table 7)"
)


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
