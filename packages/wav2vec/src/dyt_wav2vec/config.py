"""Settings of the network as plain values, importable without torch and fairseq."""

from __future__ import annotations

from dataclasses import dataclass

from matched.checks import check_counts, check_divides, check_shares

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
        check_shares(
            self,
            *("mask_prob", "dropout", "attention_dropout", "activation_dropout"),
            *("dropout_input", "dropout_features", "encoder_layerdrop", "feature_grad_mult"),
        )
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
