"""Settings of the vision runs as plain values; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dyt import Norm
from dyt_vision.normfree import NormFree
from matched import TrainConfig
from matched.checks import check_choice, check_counts, check_divides, check_fractions

Arguments = tuple[tuple[str, int | float | str | bool | tuple[int, ...]], ...]
"""Keyword arguments as (name, value) pairs: immutable, unlike a dict, as a frozen config must be.
A run's signature contains the pairs in this form."""


@dataclass(frozen=True, kw_only=True)
class Vision(TrainConfig):
    """Settings that all runs on images share.

    Attributes:
        norm: replacement of the model's norm layers: a ``dyt.Norm``, or an earlier method to train
            without them. With α0 = "calibrated", α is fitted to training images before the first
            step, except in networks that are loaded.
        data: "imagenet", "cifar100" or "tiny-imagenet", which are folders, or "digits" (embedded;
            smoke scale, and mini scale by default).
        image_size: height and width in pixels of the model's input.
        crop_scale: (least, most) share of the image's area in a random resized crop.
        crop_aspect: (least, most) width over height of a random resized crop.
        crop_ratio: side of the evaluation's center crop over the side of the resized image.
        interpolation: resizing method in training.
        eval_interpolation: resizing method in evaluation.
        flip: probability of a horizontal flip; use 0 for digits.
        eval_batch: images per forward pass in evaluation.
    """

    norm: Norm | NormFree = field(default_factory=Norm.own)
    data: str
    image_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    crop_ratio: float = 0.875
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    eval_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.5
    eval_batch: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.norm, (Norm, NormFree)):
            raise ValueError(f"norm is {self.norm!r}; expected a dyt.Norm, such as Norm.dyt()")
        check_counts(self, "image_size", "eval_batch")
        check_fractions(self, "flip")
        check_crop("crop_scale", self.crop_scale)
        check_crop("crop_aspect", self.crop_aspect, most=float("inf"))
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio is {self.crop_ratio}; expected above 0, at most 1")
        for name in ("interpolation", "eval_interpolation"):
            check_choice(self, name, ("bicubic", "bilinear"))


@dataclass(frozen=True, kw_only=True)
class Supervised(Vision):
    """Supervised image classification (CVPR 2025, Section 5; ICLR 2025 submission, Table 9).

    Attributes:
        model: name of a timm model, or "package.module:function" of a constructor that takes
            num_classes.
        model_args: further arguments of the constructor.
        convert_batch_norm: replace BatchNorm layers by ``norm`` (CVPR 2025, Table 15), not only
            LN and RMSNorm.
        labels_per_class: train on the first images of each class, this many; None uses all.
        optimizer: "adamw", or "sgd" with ``momentum``.
        rand_augment: timm's RandAugment policy; "" for none. There is no other color jitter.
        mixup: alpha of mixup's Beta distribution; 0 turns mixup off.
        cutmix: alpha of CutMix's Beta distribution; 0 turns CutMix off.
        mixup_prob: probability that a batch is mixed.
        mixup_switch: probability of CutMix if both are on.
        erasing: probability of random erasing, with one patch of noise.
        label_smoothing: share of the label spread over all classes.
        drop_path: rate of stochastic depth at the last block, growing linearly from 0 (in timm's
            Mixer, the rate of every block). With 0 the argument is not passed to the constructor,
            as some have none.
    """

    model: str
    model_args: Arguments = ()
    convert_batch_norm: bool = False
    labels_per_class: int | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_prob: float = 1.0
    mixup_switch: float = 0.5
    erasing: float = 0.25
    label_smoothing: float = 0.1
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self, "mixup_prob", "mixup_switch", "erasing", "label_smoothing")
        if self.labels_per_class is not None:
            check_counts(self, "labels_per_class")
        check_choice(self, "optimizer", ("adamw", "sgd"))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; expected 0 or more, below 1")
        check_drop_path(self.drop_path)
        if not (self.mixup >= 0 and self.cutmix >= 0):  # also refuses NaN
            raise ValueError(f"mixup {self.mixup}, cutmix {self.cutmix}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """Released weights of a timm classifier, for an analysis of its norm layers.

    Attributes:
        data: source of the weights: a file of a state dict, or a timm folder of Hugging Face.
        model, model_args: as in ``Supervised``.
        classes: number of classes.
    """

    data: str = "vit-b-weights"
    model: str
    model_args: Arguments = ()
    classes: int = 1000

    def __post_init__(self) -> None:
        check_counts(self, "classes")


@dataclass(frozen=True, kw_only=True)
class FineTuning(Supervised):
    """Fine-tuning of a pretrained ViT, all weights (He et al. 2022, Appendix A.1 and Table 9).

    The run uses the weights of the run that it needs under the name "pretrained"; without one, the
    same model is trained from scratch.

    Attributes:
        layer_decay: learning rate of each block as a share of the next block's; 1 gives all layers
            the same rate.
    """

    layer_decay: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer != "adamw":
            raise ValueError(f"optimizer is {self.optimizer!r}; fine-tuning supports only 'adamw'")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; expected above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class ViT(Vision):
    """Size of the ViT that a method pretrains or probes.

    Attributes:
        patch_size: side of a patch, in pixels.
        width: channels.
        depth: number of blocks.
        heads: attention heads in each block.
    """

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema_decay is not None:
            raise ValueError(
                f"ema_decay is {self.ema_decay}; {type(self).__name__} does not support an EMA of "
                "the weights, leave it at None"
            )
        check_counts(self, "patch_size", "width", "depth", "heads")
        check_divides("patch_size", self.patch_size, "image_size", self.image_size)
        check_divides("heads", self.heads, "width", self.width)


@dataclass(frozen=True, kw_only=True)
class MAE(ViT):
    """Pretraining of a masked autoencoder (He et al. 2022, arXiv 2111.06377, Table 8).

    Attributes:
        decoder_width: channels of the decoder's blocks.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of each block of the decoder.
        mask_ratio: share of the patches that are hidden from the encoder.
        norm_pix: predict each patch's pixels normalized by the patch's own mean and variance.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    norm_pix: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "decoder_width", "decoder_depth", "decoder_heads")
        check_divides("decoder_heads", self.decoder_heads, "decoder_width", self.decoder_width)
        for name in ("width", "decoder_width"):
            if getattr(self, name) % 4:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected a multiple of 4, which 2-D "
                    "sine-cosine positions require"
                )
        patches = (self.image_size // self.patch_size) ** 2
        if not 0 < self.mask_ratio < 1 or not 0 < int(patches * (1 - self.mask_ratio)) < patches:
            raise ValueError(
                f"mask_ratio is {self.mask_ratio}; expected a share between 0 and 1 that leaves "
                f"some of the {patches} patches hidden and some visible"
            )


@dataclass(frozen=True, kw_only=True)
class DINO(ViT):
    """Pretraining by self-distillation (Caron et al. 2021, arXiv 2104.14294, Section 3).

    ``crop_scale`` and ``image_size`` are those of the two global crops.

    Attributes:
        local_crops: number of local crops, which only the student sees.
        local_size: height and width of a local crop in pixels.
        local_scale: (least, most) share of the image's area in a local crop.
        jitter: probability of color jitter, whose strengths are the paper's.
        greyscale: probability of a grayscale image.
        blur: probabilities of Gaussian blur for the first global, the second global and the local
            crops.
        solarize: probability of solarization of the second global crop.
        outputs: dimensions K of the head's output.
        head_width: width of the head's hidden layers.
        bottleneck: width of the head's bottleneck.
        norm_last_layer: fix the norm of the last layer's weights to 1 (ViT-B) instead of learning
            it.
        freeze_last_layer: number of first epochs in which the last layer is not trained.
        teacher_momentum: momentum of the teacher's EMA at the start; grows to 1 on a cosine.
        center_momentum: momentum of the moving average of the teacher's outputs.
        student_temperature: temperature of the softmax over the student's outputs.
        teacher_temperature: temperature of the softmax over the teacher's outputs.
        warmup_teacher_temperature: teacher's temperature at the start; changes linearly to
            ``teacher_temperature`` over ``warmup_teacher_temperature_epochs``.
        final_weight_decay: end of a cosine that starts at ``weight_decay``.
        clip_each: largest norm of each parameter's own gradient; None does not clip.
        drop_path: rate of stochastic depth of the student's last block.
        init_std: standard deviation of the initial tokens and linear layers. The paper's 0.02 is
            for networks some hundred channels wide; in narrow ones it makes the signal vanish.
        neighbours: k of the k-NN classifier that evaluates the teacher's features.
        bank: number of training images that vote in the k-NN classifier: the first of the shuffled
            set.
    """

    crop_scale: tuple[float, float] = (0.25, 1.0)
    local_crops: int = 10
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.25)
    jitter: float = 0.8
    greyscale: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    solarize: float = 0.2
    outputs: int = 65536
    head_width: int = 2048
    bottleneck: int = 256
    norm_last_layer: bool = True
    freeze_last_layer: int = 3
    teacher_momentum: float = 0.996
    center_momentum: float = 0.9
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    warmup_teacher_temperature: float = 0.04
    warmup_teacher_temperature_epochs: int = 50
    final_weight_decay: float = 0.4
    clip_each: float | None = 3.0
    drop_path: float = 0.1
    init_std: float = 0.02
    neighbours: int = 20
    bank: int = 50000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(
            self, "local_size", "outputs", "head_width", "bottleneck", "neighbours", "bank"
        )
        check_fractions(self, "jitter", "greyscale", "solarize", "teacher_momentum")
        check_fractions(self, "center_momentum")
        for name in ("local_crops", "freeze_last_layer", "warmup_teacher_temperature_epochs"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected 0 or more")
        for name in ("student_temperature", "teacher_temperature", "warmup_teacher_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected above 0")
        check_crop("local_scale", self.local_scale)
        check_divides("patch_size", self.patch_size, "local_size", self.local_size)
        if len(self.blur) != 3 or not all(0 <= share <= 1 for share in self.blur):
            raise ValueError(f"blur is {self.blur}; expected three probabilities, 0 to 1")
        if not self.final_weight_decay >= 0:
            raise ValueError(f"final_weight_decay is {self.final_weight_decay}; expected 0 or more")
        if self.clip_each is not None and not self.clip_each > 0:
            raise ValueError(f"clip_each is {self.clip_each}; expected a positive number or None")
        if not self.init_std > 0:
            raise ValueError(f"init_std is {self.init_std}; expected above 0")
        check_drop_path(self.drop_path)


@dataclass(frozen=True, kw_only=True)
class Probing(ViT):
    """Linear classifier on frozen features (Caron et al. 2021, Section 4.1).

    The features are the class tokens of the last ``blocks`` blocks after the final norm and, with
    ``pool``, the mean of the last block's patch tokens. The optimizer is SGD with ``momentum``. The
    run needs a pretraining run under the name "pretrained", whose network has the size given here.

    Attributes:
        blocks: number of blocks whose class tokens are used (1 for ViT-B, 4 for ViT-S).
        pool: also use the mean of the patch tokens (True for ViT-B).
    """

    momentum: float = 0.9
    blocks: int = 1
    pool: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "blocks")
        if self.blocks > self.depth:
            raise ValueError(f"blocks is {self.blocks}; expected at most depth ({self.depth})")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; expected 0 or more, below 1")


def check_crop(name: str, bounds: tuple[float, float], most: float = 1.0) -> None:
    """Refuse bounds of a random crop unless 0 < least <= largest <= most.

    Raises:
        ValueError: naming the setting.
    """
    least, largest = bounds
    if not 0 < least <= largest <= most:
        limit = "" if most == float("inf") else f" and at most {most:g}"
        raise ValueError(f"{name} is {bounds}; expected (least, most), both above 0{limit}")


def check_drop_path(rate: float) -> None:
    """Refuse a rate of stochastic depth that is not in [0, 1).

    Raises:
        ValueError: naming the setting.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path is {rate}; expected 0 or more, below 1")
