"""Configs of the speech runs, importable without torch and fairseq.

A cell of a table is a ``Pretraining`` that needs a ``Preparation``. A ``Preparation`` has neither a
norm nor a seed, so all arms and seeds share one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from dyt import Norm
from matched.checks import check_choice, check_counts, check_divides, check_fractions

DATA_SOURCES = ("librispeech", "speech-folder", "synthetic-speech")
CONV_FEATURE_LAYERS = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)


@dataclass(frozen=True, kw_only=True)
class Network:
    """wav2vec 2.0 network (Baevski et al. 2020, arXiv 2006.11477, Sections 2 and 4.2).

    Fields have the names of fairseq's Wav2Vec2Config; settings that are not listed keep fairseq's
    defaults. The feature extractor has one group norm, and targets are quantized.

    Attributes:
        conv_feature_layers: layers of the feature extractor, each (channels, kernel, stride).
        encoder_layers: Transformer blocks.
        encoder_embed_dim: width of the blocks.
        encoder_ffn_embed_dim: width of the blocks' MLPs.
        encoder_attention_heads: attention heads of each block.
        layer_norm_first: True for pre-norm blocks with a norm after the last one; False for
            post-norm blocks with a norm before the first one.
        final_dim: width of the projection in which predictions and targets are compared.
        latent_vars: entries per codebook.
        latent_groups: number of codebooks.
        latent_temp: Gumbel softmax temperature: initial value, minimum, and decay factor per
            update.
        conv_pos: kernel size of the positional convolution.
        conv_pos_groups: groups of the positional convolution.
        mask_prob: fraction of time steps that start a masked span, times ``mask_length``.
        mask_length: time steps in a masked span.
        num_negatives: distractors per masked time step.
        dropout: dropout in the blocks.
        attention_dropout: dropout on the attention weights.
        activation_dropout: dropout in the MLPs.
        dropout_input: dropout on the input of the blocks.
        dropout_features: dropout on the features that are quantized.
        encoder_layerdrop: probability of skipping a block.
        feature_grad_mult: factor on the gradient of the feature extractor.
    """

    conv_feature_layers: tuple[tuple[int, int, int], ...] = CONV_FEATURE_LAYERS
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
            raise ValueError(
                "mask_prob is 0; expected more than 0: the loss is computed on masked steps"
            )
        for part in ("encoder_attention_heads", "conv_pos_groups"):
            width = self.encoder_embed_dim
            check_divides(part, getattr(self, part), "encoder_embed_dim", width)
        check_divides("latent_groups", self.latent_groups, "final_dim", self.final_dim)
        layers = self.conv_feature_layers
        if not layers or any(len(layer) != 3 or min(layer) < 1 for layer in layers):
            raise ValueError(
                f"conv_feature_layers is {layers!r}; expected (channels, kernel, stride) per layer"
            )


BASE = Network(
    encoder_layers=12,
    encoder_embed_dim=768,
    encoder_ffn_embed_dim=3072,
    encoder_attention_heads=12,
    final_dim=256,
)
"""Post-norm Base network: fairseq's wav2vec2_base_librispeech."""

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
"""Pre-norm Large network: wav2vec2_large_librispeech of the authors' release for DyT."""


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """Released weights in fairseq's form, for an analysis of the norm layers.

    Attributes:
        data: source of the weights.
        network: sizes of the network.
    """

    data: str = "wav2vec2-large-weights"
    network: Network


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Check of the audio files, shared by all pretraining runs; writes fairseq's manifests.

    Attributes:
        data: "librispeech", "speech-folder" (any folder of FLAC and WAV files) or
            "synthetic-speech" (embedded), which is generated first.
        shuffle_seed: seed of the held-out files, or of the synthetic corpus.
        train: training utterances of the synthetic corpus; ignored for other data.
        valid: validation utterances of the synthetic corpus; ignored for other data.
        voices: speakers of the synthetic corpus; ignored for other data.
    """

    data: str = "librispeech"
    shuffle_seed: int = 0
    train: int = 200
    valid: int = 40
    voices: int = 8

    def __post_init__(self) -> None:
        check_counts(self, "train", "valid", "voices")
        check_choice(self, "data", DATA_SOURCES)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Pretraining by fairseq's trainer (wav2vec 2.0, Section 4.2; CVPR 2025, Section 5).

    Attributes:
        seed: seed of everything random except validation, which draws the same for all runs.
        norm: norm layer of the Transformer and of the features.
        data: "librispeech", "speech-folder" or "synthetic-speech" (embedded), as in preparation.
        network: architecture.
        updates: optimizer updates; the learning-rate schedule ends there.
        epochs: passes over the data after which training ends if that is earlier than ``updates``;
            None for no limit.
        micro_batches_per_update: micro-batches of an update, summed over all processes: fairseq's
            number of GPUs. With fewer processes, each accumulates several.
        max_tokens: maximum samples of a micro-batch. Its utterances have similar lengths and are
            cropped to the shortest of them.
        max_sample_size: samples to which longer utterances are cropped.
        min_sample_size: samples below which utterances are skipped.
        lr: peak learning rate, reached after ``warmup_updates``; decays linearly to 0 afterwards.
        warmup_updates: updates of linear warm-up from 0.
        betas: Adam's.
        eps: Adam's.
        weight_decay: Adam's; decoupled, and applied to all parameters.
        loss_weights: weights of the codebook diversity loss and of the feature penalty; the
            contrastive loss has weight 1.
        precision: "fp32", or "fp16": weights and activations in 16 bits with loss scaling, and a
            32-bit copy of the weights in the optimizer.
        eval_updates: updates between validations; the last update is always validated.
        eval_passes: passes per validation, each with its own masks, crops and distractors. The
            noise of a single pass is as large as the difference between the arms.
        log_updates: updates between lines of metrics.jsonl.
    """

    seed: int = 0
    norm: Norm = field(default_factory=Norm.own)
    data: str = "librispeech"
    network: Network
    updates: int
    epochs: int | None = None
    micro_batches_per_update: int
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
            *("updates", "micro_batches_per_update", "max_tokens", "max_sample_size"),
            *("min_sample_size", "eval_updates", "log_updates"),
        )
        if self.epochs is not None:
            check_counts(self, "epochs")
        if isinstance(self.norm, Norm) and self.norm.calibrated:
            raise ValueError(
                f"norm is {self.norm}, but fairseq builds the network without data to calibrate α "
                "on; give alpha0 a number"
            )
        check_choice(self, "data", DATA_SOURCES)
        check_choice(self, "precision", ("fp32", "fp16"))
        if type(self.eval_passes) is not int or self.eval_passes < 2:
            raise ValueError(
                f"eval_passes is {self.eval_passes!r}; expected a whole number of 2 or more: a "
                "single pass has no standard error"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.warmup_updates < self.updates:
            raise ValueError(
                f"lr is {self.lr} and warmup_updates is {self.warmup_updates}; expected a positive "
                f"lr and warmup_updates from 0 to below updates ({self.updates})"
            )
        if not all(0 <= beta < 1 for beta in self.betas) or not self.eps > 0:
            raise ValueError(
                f"betas are {self.betas} and eps is {self.eps}; expected betas from 0 to below 1 "
                "and a positive eps"
            )
        if not all(0 <= weight < math.inf for weight in (self.weight_decay, *self.loss_weights)):
            raise ValueError(
                f"weight_decay is {self.weight_decay} and loss_weights are {self.loss_weights}; "
                "expected numbers of 0 or more"
            )
        if not self.min_sample_size <= self.max_sample_size <= self.max_tokens:
            raise ValueError(
                f"min_sample_size is {self.min_sample_size}, max_sample_size "
                f"{self.max_sample_size} and max_tokens {self.max_tokens}; expected "
                "non-decreasing values, because a micro-batch holds at least one utterance"
            )
