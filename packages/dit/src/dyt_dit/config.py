"""Configs of the diffusion tasks as plain values, importable without torch.

A table cell is a chain of runs, ``Encoding`` → ``Training`` → ``Sampling`` → ``Scoring``; scoring
may also need a ``Reference``. Configs without ``norm`` and ``seed`` describe one run that all arms
and seeds share.
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
    """Sizes of a diffusion transformer (Peebles and Xie 2023, arXiv 2212.09748, Table 1).

    Attributes:
        input_size: height and width of the latents; an eighth of the image's with the VAE.
        channels: channels of the latents; the output has twice as many, for noise and variance.
        classes: number of labels; one extra embedding represents "no label".
        patch_size: height and width of a patch, in latents.
        width: channels of the blocks.
        depth: number of blocks.
        heads: attention heads per block.
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
    """Encoding of a data set into latents, once for all arms, rows and seeds.

    Attributes:
        data: the data set, "imagenet" or "digits" (embedded in scikit-learn), and "sd-vae" if the
            autoencoder is "kl".
        autoencoder: "kl" for the VAE, diffusers' AutoencoderKL from the source "sd-vae"; "pixels"
            to diffuse the pixels themselves, scaled to [-1, 1].
        image_size: height and width in pixels that images are resized and cropped to.
        flip: also encode the mirror image of each training image; use False for digits.
        batch: images per forward pass.
        images_per_file: images per file of latents.
    """

    data: tuple[str, ...]
    autoencoder: Autoencoder = "kl"
    image_size: int = 256
    flip: bool = True
    batch: int = 32
    images_per_file: int = 2048

    def __post_init__(self) -> None:
        check_counts(self, "image_size", "batch", "images_per_file")
        check_choice(self, "autoencoder", ("kl", "pixels"))


@dataclass(frozen=True, kw_only=True)
class Training(TrainConfig):
    """Training of a diffusion transformer (CVPR 2025, Section 5; DiT, Section 4).

    The run needs an ``Encoding`` under the name "latents".

    Attributes:
        norm: norm layer that replaces the network's LayerNorms.
        zero_init: initialize the modulation and output layers with zeros, as DiT does. If False
            they are initialized like all other linear layers, as in the authors' release for DyT.
        network: sizes of the network.
        data: "sd-vae" if the latents were encoded with the VAE; its checksum must match the
            encoder's.
        class_dropout: probability that a label is replaced by "no label".
        diffusion_steps: T, number of steps of the forward process with a linear noise schedule.
        flip: probability of taking an image's mirror image; needs an encoding with ``flip``.
        held_out: number of images in the evaluation, spread evenly over the held-out set.
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
class ReleasedWeights:
    """Weights of the DiT release, for an analysis of the norm layers.

    Attributes:
        data: source of the weights.
        network: sizes of the network.
    """

    data: str = "dit-xl2-weights"
    network: Network


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A set of generated images; each depends only on the seed and its index in the set.

    The run needs a ``Training`` under the name "trained" and uses its EMA weights.

    Attributes:
        norm: that of the training.
        network: that of the training.
        data: "sd-vae" if the autoencoder is "kl".
        autoencoder: that of the encoding.
        diffusion_steps: T, that of the training.
        steps: number of the T steps that the ancestral sampler visits.
        cfg_scale: scale of classifier-free guidance; 1 means no guidance.
        count: number of images; their classes are drawn at random.
        batch: images that are sampled together and written to one file.
        precision: "fp32" or "tf32", on a GPU.
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
    """A small digits classifier whose hidden layer replaces Inception's features at smoke scale.

    Attributes:
        data: "digits".
        hidden: units of each hidden layer; the last layer gives the features.
        random_state: seed of the initial weights and of the order of the examples.
    """

    data: tuple[str, ...] = ("digits",)
    hidden: tuple[int, ...] = (64, 32)
    random_state: int = 0


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Feature statistics of real images, with which generated images are compared.

    Attributes:
        data: the data set, and "inception" if that is the extractor.
        extractor: "inception"; or "digits", for which the run needs a ``DigitsClassifier`` under
            the name "classifier".
        image_size: height and width in pixels that images are resized and cropped to.
        kept: number of images, spread over the set, whose features are stored individually for
            precision and recall.
        batch: images per forward pass.
        images_per_file: images per file of features.
    """

    data: tuple[str, ...]
    extractor: Extractor = "inception"
    image_size: int = 256
    kept: int = 10000
    batch: int = 64
    images_per_file: int = 2048

    def __post_init__(self) -> None:
        check_choice(self, "extractor", ("inception", "digits"))
        check_counts(self, "image_size", "kept", "batch", "images_per_file")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """FID and related metrics of a set of generated images.

    The run needs a ``Sampling`` under the name "samples". The reference is the run that it needs
    under the name "reference" or, without one, the real images and statistics in the reference
    batch of ADM's evaluation suite, from the source "imagenet-reference".

    Attributes:
        data: "inception" if that is the extractor, and "imagenet-reference" if that is the
            reference.
        extractor: as in ``Reference``.
        neighbours: k of the k-NN manifolds of precision and recall.
        batch: images per forward pass.
        images_per_file: images per file of features.
    """

    data: tuple[str, ...] = ()
    extractor: Extractor = "inception"
    neighbours: int = 3
    batch: int = 64
    images_per_file: int = 2048

    def __post_init__(self) -> None:
        check_choice(self, "extractor", ("inception", "digits"))
        check_counts(self, "neighbours", "batch", "images_per_file")


def check_norm(config: Any) -> None:
    """Check that ``config.norm`` is a ``dyt.Norm``.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(config.norm, Norm):
        raise ValueError(f"norm is {config.norm!r}; expected a dyt.Norm, such as Norm.dyt()")
