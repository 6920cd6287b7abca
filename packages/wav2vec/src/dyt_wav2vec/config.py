"""Settings of the speech runs as plain values, importable without torch and fairseq.

A cell of a table is a ``Pretraining`` that needs a ``Preparation``, which knows neither norm nor
seed and so is one run for all arms and seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from dyt import Norm
from matched.checks import check_choice, check_counts, check_divides, check_fractions

SOURCES = ("librispeech", "speech-folder", "synthetic-speech")
CONVOLUTIONS = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, Sections 2 and 4.2).

    Fields are called as fairseq's Wav2Vec2Config calls them, and what is not here is as fairseq has
    it. The extractor has one group norm, and targets are quantised.

    Attributes:
        conv_feature_layers: of the feature extractor, each (channels, kernel, stride).
        encoder_layers, encoder_embed_dim, encoder_ffn_embed_dim, encoder_attention_heads: blocks,
            their channels, those inside of their MLP, and heads of their attention.
        layer_norm_first: pre-norm blocks, and a norm after the last one; else post-norm blocks,
            and a norm before the first one.
        final_dim: channels of what predictions and targets are compared in.
        latent_vars, latent_groups: entries of each codebook, and codebooks.
        latent_temp: of the Gumbel softmax: at the start, at least, and the factor of an update.
        conv_pos, conv_pos_groups: kernel and groups of the convolution that encodes positions.
        mask_prob, mask_length: share of the time steps that start a masked span, times its
            length; and the span's length.
        num_negatives: distractors of each masked time step.
        dropout, attention_dropout, activation_dropout, dropout_input, dropout_features: shares
            dropped in the blocks, of attention, in the MLPs, of the blocks' input, of what is
            quantised.
        encoder_layerdrop: probability that a block is left out.
        feature_grad_mult: factor of the gradient in the feature extractor.
    """

    conv_feature_layers: tuple[tuple[int, int, int], ...] = CONVOLUTIONS
    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int
    layer_norm_first: bool = False
    final_dim: int
    latent_vars: int = 320
    latent_groups: int = 2
    latent_temp: tuple[float, float, float] = (2.0, 0.5, 0.999995)
    conv_pos: int = 128
    conv_pos_groups: int = 16
    mask_prob: float = 0.65
    mask_length: int = 10
    num_negatives: int = 100
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    dropout_input: float = 0.1
    dropout_features: float = 0.1
    encoder_layerdrop: float = 0.05
    feature_grad_mult: float = 0.1

    def __post_init__(self) -> None:
        check_counts(
            self,
            *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim"),
            *("encoder_attention_heads", "final_dim", "latent_vars", "latent_groups"),
            *("conv_pos", "conv_pos_groups", "mask_length", "num_negatives"),
        )
        check_fractions(
            self,
            *("mask_prob", "dropout", "attention_dropout", "activation_dropout"),
            *("dropout_input", "dropout_features", "encoder_layerdrop", "feature_grad_mult"),
        )
        if not self.mask_prob:
            raise ValueError("mask_prob is 0; expected more: what is masked is what is learned")
        for part in ("encoder_attention_heads", "conv_pos_groups"):
            width = self.encoder_embed_dim
            check_divides(part, getattr(self, part), "encoder_embed_dim", width)
        check_divides("latent_groups", self.latent_groups, "final_dim", self.final_dim)
        layers = self.conv_feature_layers
        if not layers or any(len(layer) != 3 or min(layer) < 1 for layer in layers):
            raise ValueError(
                f"conv_feature_layers is {layers!r}; expected (channels, kernel, stride) of each"
            )


BASE = Network(
    encoder_layers=12,
    encoder_embed_dim=768,
    encoder_ffn_embed_dim=3072,
    encoder_attention_heads=12,
    final_dim=256,
)
"""Post-norm: fairseq's wav2vec2_base_librispeech."""

LARGE = Network(
    encoder_layers=24,
    encoder_embed_dim=1024,
    encoder_ffn_embed_dim=4096,
    encoder_attention_heads=16,
    layer_norm_first=True,
    final_dim=768,
    latent_temp=(2.0, 0.1, 0.999995),
    attention_dropout=0.0,
    encoder_layerdrop=0.2,
)
"""Pre-norm: wav2vec2_large_librispeech of the authors' release for DyT."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The speech that runs read, looked at once for all of them: fairseq's lists of files.

    Attributes:
        data: "librispeech", "speech-folder" (any folder of FLAC and WAV), or "synthetic-speech"
            (embedded), which is made first.
        shuffle_seed: decides which files are held out, or what is synthesised.
        train, valid, voices: utterances of each part, and speakers, of synthetic speech alone.
    """

    data: str = "librispeech"
    shuffle_seed: int = 0
    train: int = 200
    valid: int = 40
    voices: int = 8

    def __post_init__(self) -> None:
        check_counts(self, "train", "valid", "voices")
        check_choice(self, "data", SOURCES)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Pretraining of a wav2vec 2.0 by fairseq's trainer (its Section 4.2; CVPR 2025, Section 5).

    Attributes:
        seed: everything random follows from it but what validation draws, which is the same for
            all runs.
        norm: what stands in the place of the Transformer's norms and of the one of the features.
        data: "librispeech", "speech-folder" or "synthetic-speech" (embedded), as in preparation.
        network: its sizes and shares.
        updates: of the optimiser, at which the schedule ends.
        epochs: passes over the data after which training ends if that is earlier; None for no end.
        shards: micro-batches of an update, over all processes: fairseq's number of GPUs. Fewer
            processes have several each.
        max_tokens: the most samples of a micro-batch, which has utterances of about one length,
            all cropped to the shortest of them.
        max_sample_size, min_sample_size: longer utterances are cropped, shorter ones left out.
        lr: at its peak, reached after ``warmup_updates``; it then falls to 0 linearly.
        betas, eps, weight_decay: of Adam; weight decay is decoupled, and of all parameters.
        loss_weights: of the codebooks' diversity and of the features' size, beside the contrastive
            loss.
        precision: "fp32", or "fp16": weights and activations in 16 bits, with loss scaling, and
            a 32-bit copy of the weights in the optimiser.
        eval_updates: updates between validations; the end is always validated.
        eval_passes: of a validation, each with masks, crops and distractors of its own. One has a
            noise as large as what sets the arms apart.
        log_updates: updates between lines of metrics.jsonl.
    """

    seed: int = 0
    norm: Norm = field(default_factory=Norm.own)
    data: str = "librispeech"
    network: Network
    updates: int
    epochs: int | None = None
    shards: int
    max_tokens: int
    max_sample_size: int
    min_sample_size: int = 32_000
    lr: float
    warmup_updates: int
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    loss_weights: tuple[float, float] = (0.1, 10.0)
    precision: Literal["fp32", "fp16"] = "fp16"
    eval_updates: int = 25_000
    eval_passes: int = 8
    log_updates: int = 200

    def __post_init__(self) -> None:
        check_counts(
            self,
            *("updates", "shards", "max_tokens", "max_sample_size", "min_sample_size"),
            *("eval_updates", "log_updates"),
        )
        if self.epochs is not None:
            check_counts(self, "epochs")
        check_choice(self, "data", SOURCES)
        check_choice(self, "precision", ("fp32", "fp16"))
        if type(self.eval_passes) is not int or self.eval_passes < 2:
            raise ValueError(
                f"eval_passes is {self.eval_passes!r}; expected a whole number of 2 or more: one "
                "pass has no standard error"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.warmup_updates < self.updates:
            raise ValueError(
                f"lr {self.lr} and warmup_updates {self.warmup_updates}: expected a positive "
                f"number, and 0 to below updates ({self.updates})"
            )
        if not all(0 <= beta < 1 for beta in self.betas) or not self.eps > 0:
            raise ValueError(
                f"betas {self.betas} and eps {self.eps}: expected two numbers from 0 to below 1, "
                "and a positive one"
            )
        if not all(0 <= weight < math.inf for weight in (self.weight_decay, *self.loss_weights)):
            raise ValueError(
                f"weight_decay {self.weight_decay} and loss_weights {self.loss_weights}: expected "
                "numbers of 0 or more"
            )
        if not self.min_sample_size <= self.max_sample_size <= self.max_tokens:
            raise ValueError(
                f"min_sample_size {self.min_sample_size}, max_sample_size {self.max_sample_size} "
                f"and max_tokens {self.max_tokens}: expected none to be below the one before, for "
                "a micro-batch holds one utterance at least"
            )
