"""Settings of the diffusion runs as plain values, importable without torch.

A cell of a table is a chain of runs: ``Encoding`` → ``Training`` → ``Sampling`` → ``Scoring``, the
last of which also needs a ``Reference`` to compare with. Those without norm and seed are one run
for all arms and seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dyt import Norm
from matched import TrainConfig
from matched.checks import check_choice, check_counts, check_divides, check_fractions

Autoencoder = Literal["kl", "pixels"]
Extractor = Literal["inception", "digits"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A diffusion transformer (Peebles and Xie 2023, arXiv 2212.09748, Table 1).

    Attributes:
        input_size: height and width of what is diffused: latents, an eighth of the image's.
        channels: of what is diffused; the output has twice as many, for noise and variance.
        classes: of the labels; one more embedding stands for no label.
        patch_size: side of a patch, in latents.
        width, depth, heads: channels, blocks, and attention heads in each.
    """

    input_size: int = 32
    channels: int = 4
    classes: int = 1000
    patch_size: int
    width: int
    depth: int
    heads: int

    def __post_init__(self) -> None:
        check_counts(self, *(f for f in self.__dataclass_fields__))
        check_divides("patch_size", self.patch_size, "input_size", self.input_size)
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"width {self.width} is not a multiple of heads ({self.heads}) and of 4, as 2-D "
                "sine-cosine positions need"
            )


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Latents of all images of a data set, computed once.

    Attributes:
        data: the data set, "imagenet" or "digits" (embedded), and "sd-vae" where that encodes.
        autoencoder: "kl", diffusers' AutoencoderKL of the source "sd-vae"; or "pixels": what is
            diffused are the pixels themselves, scaled to [-1, 1].
        image_size: height and width in pixels that images are resized and cropped to.
        flip: whether each training image's mirror image is encoded too; of digits better not.
        batch: images per forward pass.
        shard: images per file.
    """

    data: tuple[str, ...]
    autoencoder: Autoencoder = "kl"
    image_size: int = 256
    flip: bool = True
    batch: int = 32
    shard: int = 2048

    def __post_init__(self) -> None:
        check_counts(self, "image_size", "batch", "shard")
        check_choice(self, "autoencoder", ("kl", "pixels"))


@dataclass(frozen=True, kw_only=True)
class Training(TrainConfig):
    """Training of a diffusion transformer (CVPR 2025, Section 5; DiT, Section 4).

    The run needs an ``Encoding`` under the name "latents".

    Attributes:
        norm: what stands in the place of the network's LayerNorms.
        zero_init: whether the modulation and output layers start at zero, as DiT has it; without
            it they start like all other linear layers, as the authors' release for DyT has it.
        network: the sizes of the network.
        data: "sd-vae" where the latents are of it: it is compared with what made them.
        class_dropout: probability that a label is replaced by none.
        diffusion_steps: T, steps of the forward process with its linear schedule.
        flip: probability that an image's mirror image is taken; needs the encoding to have it.
        held_out: images whose loss evaluates the network, spread over the held-out set.
        eval_batch: latents per forward pass in evaluation.
    """

    norm: Norm = field(default_factory=Norm.own)
    zero_init: bool = True
    network: Network
    data: tuple[str, ...] = ()
    class_dropout: float = 0.1
    diffusion_steps: int = 1000
    flip: float = 0.5
    held_out: int = 10000
    eval_batch: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self)
        check_counts(self, "diffusion_steps", "held_out", "eval_batch")
        check_fractions(self, "class_dropout", "flip")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A set of generated images; each depends on the seed and on its place in the set alone.

    The run needs a ``Training`` under the name "trained", whose averaged weights it uses.

    Attributes:
        norm, network: of the training.
        data: "sd-vae" where that decodes.
        autoencoder: that of the encoding.
        diffusion_steps: T, that of the training.
        steps: of the T that the ancestral sampler visits.
        cfg_scale: of classifier-free guidance; 1 is without.
        count: images, of random classes.
        batch: images that are sampled together, and written to one file.
        precision: "fp32" or "tf32", where there is a GPU.
    """

    seed: int = 0
    norm: Norm = field(default_factory=Norm.own)
    network: Network
    data: tuple[str, ...] = ()
    autoencoder: Autoencoder = "kl"
    diffusion_steps: int = 1000
    steps: int = 250
    cfg_scale: float = 1.0
    count: int = 50000
    batch: int = 32
    precision: Literal["fp32", "tf32"] = "tf32"

    def __post_init__(self) -> None:
        check_norm(self)
        check_choice(self, "autoencoder", ("kl", "pixels"))
        check_choice(self, "precision", ("fp32", "tf32"))
        check_counts(self, "diffusion_steps", "steps", "count", "batch")
        if self.steps > self.diffusion_steps:
            raise ValueError(
                f"steps is {self.steps}; the diffusion has {self.diffusion_steps} (diffusion_steps)"
            )
        if not self.cfg_scale >= 1:
            raise ValueError(f"cfg_scale is {self.cfg_scale}; expected 1 (no guidance) or more")


@dataclass(frozen=True, kw_only=True)
class DigitsClassifier:
    """A small classifier of the digits, whose hidden layer gives features where no Inception is.

    Attributes:
        data: "digits".
        hidden: units of its hidden layers; the last are the features.
        random_state: of its first weights and of the order of its examples.
    """

    data: tuple[str, ...] = ("digits",)
    hidden: tuple[int, ...] = (64, 32)
    random_state: int = 0


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics of real images' features, which generated ones are compared with.

    Attributes:
        data: the data set, and "inception" where that extracts the features.
        extractor: "inception", or "digits": the run then needs a ``DigitsClassifier`` under the
            name "classifier".
        image_size: height and width in pixels that images are resized and cropped to.
        kept: features kept one by one, for precision and recall, spread over the set.
        batch, shard: images per forward pass, and per file.
    """

    data: tuple[str, ...]
    extractor: Extractor = "inception"
    image_size: int = 256
    kept: int = 10000
    batch: int = 64
    shard: int = 2048

    def __post_init__(self) -> None:
        check_choice(self, "extractor", ("inception", "digits"))
        check_counts(self, "image_size", "kept", "batch", "shard")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Fréchet distance and its companions of a set of generated images.

    The run needs a ``Sampling`` under the name "samples". It is compared with the run that it
    needs under the name "reference" or, without one, with the batch of real images and statistics
    that ADM's evaluation suite brings, from the source "imagenet-reference".

    Attributes:
        data: "inception" where that extracts the features, and "imagenet-reference" where that
            is the reference.
        extractor: as in ``Reference``.
        neighbours: k of the k-NN manifolds of precision and recall.
        batch, shard: images per forward pass, and per file of features.
    """

    data: tuple[str, ...] = ()
    extractor: Extractor = "inception"
    neighbours: int = 3
    batch: int = 64
    shard: int = 2048

    def __post_init__(self) -> None:
        check_choice(self, "extractor", ("inception", "digits"))
        check_counts(self, "neighbours", "batch", "shard")


def check_norm(config: Any) -> None:
    if not isinstance(config.norm, Norm):
        raise ValueError(f"norm is {config.norm!r}; expected a dyt.Norm, such as Norm.dyt()")
