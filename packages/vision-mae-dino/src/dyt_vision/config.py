"""Settings of the vision runs as plain values, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from dyt import Norm
from matched import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Supervised(TrainConfig):
    """Supervised image classification (CVPR 2025, Section 5; ICLR 2025 submission, Table 9).

    Attributes:
        model: name of a timm model.
        model_args: further arguments of ``timm.create_model``, as (name, value) pairs.
        norm: what stands in the place of the model's norm layers.
        data: "imagenet", or "digits" (embedded; smoke scale).
        image_size: height and width in pixels of what the model sees.
        crop_ratio: side of the centre crop over the side of the image that it is cut from,
            in evaluation.
        crop_scale: share of the image's area that a random resized crop takes.
        crop_aspect: width over height of a random resized crop.
        flip: probability of a horizontal flip; digits are not flipped.
        rand_augment: timm's RandAugment policy; "" for none. With one, there is no colour jitter.
        mixup, cutmix: alpha of their Beta distributions; 0 turns one off.
        mixup_prob: probability that a batch is mixed.
        mixup_switch: probability of CutMix where both are on.
        erasing: probability of random erasing, with one patch of noise.
        label_smoothing: share of the label spread over all classes.
        drop_path: rate of stochastic depth at the last block, growing linearly from 0.
        eval_batch: images per forward pass in evaluation.
    """

    model: str
    model_args: tuple[tuple[str, int | float | str | bool | tuple[int, ...]], ...] = ()
    norm: Norm = field(default_factory=Norm.own)
    data: str
    image_size: int = 224
    crop_ratio: float = 0.875
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_prob: float = 1.0
    mixup_switch: float = 0.5
    erasing: float = 0.25
    label_smoothing: float = 0.1
    drop_path: float = 0.1
    eval_batch: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.norm, Norm):
            raise ValueError(f"norm is {self.norm!r}; expected a dyt.Norm, such as Norm.dyt()")
        for name in ("flip", "mixup_prob", "mixup_switch", "erasing", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        for name in ("image_size", "eval_batch"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected 1 or more")
        for name, most in (("crop_scale", 1.0), ("crop_aspect", float("inf"))):
            least, largest = getattr(self, name)
            if not 0 < least <= largest <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; expected (least, most) > 0")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path is {self.drop_path}; expected 0 or more, below 1")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio is {self.crop_ratio}; expected above 0, at most 1")
        if self.mixup < 0 or self.cutmix < 0:
            raise ValueError(f"mixup {self.mixup}, cutmix {self.cutmix}: expected 0 or more")
