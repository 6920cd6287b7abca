"""The DiT network: diffusers' transformer adapted to the DiT paper, with any norm layer.

Diffusers' ``DiTTransformer2DModel`` differs from the network of Peebles and Xie (2023, arXiv
2212.09748, Section 3.2) in what inference with released weights does not need: its weights are not
initialized as in the paper, every block has separate timestep and label embeddings that drop labels
independently, and the timestep embedding uses other frequencies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings
from einops import rearrange
from torch import Tensor, nn

from dyt import Norm, convert
from dyt.architecture_rules import drop_zero_init
from dyt_dit.config import Network, Training
from matched.training import reseed
from matched.training.seeding import generator

EPSILON = 1e-6


class DiffusionTransformer(nn.Module):
    """Diffusion transformer that predicts the noise in noised latents and the variance of the
    step that removes it.

    Its LayerNorms have no affine part; scale, shift and gate come from the modulation (adaLN-Zero).
    """

    transformer: Any  # diffusers declares neither its attributes nor its calls

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.embedder = CombinedTimestepLabelEmbeddings(network.classes, network.width)
        self.embedder.time_proj.downscale_freq_shift = 0  # the paper's frequencies
        # The extra "no label" embedding exists, but labels are dropped with the batch, not here.
        self.embedder.class_embedder.dropout_prob = 0.0
        self.transformer = DiTTransformer2DModel(
            num_attention_heads=network.heads,
            attention_head_dim=network.width // network.heads,
            in_channels=network.channels,
            out_channels=2 * network.channels,
            num_layers=network.depth,
            sample_size=network.input_size,
            patch_size=network.patch_size,
            num_embeds_ada_norm=1,  # the blocks' own embeddings are replaced below
            norm_eps=EPSILON,
        )
        for block in self.transformer.transformer_blocks:
            block.norm1.emb = _SharedConditioning()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Predict noise and variance.

        Args:
            x: noised latents (B, C, H, W).
            t: steps of the forward process (B,), from 0.
            labels: (B,), from 0; the number of classes means "no label".

        Returns:
            (B, 2C, H, W): the noise, then the interpolation between the bounds of the log-variance,
            from -1 to 1 (Nichol and Dhariwal 2021, Eq. 15).
        """
        conditioning = self.embedder(t, labels, hidden_dtype=x.dtype)
        return self.transformer(x, timestep=conditioning, return_dict=False)[0]

    def zero_initialized(self) -> tuple[str, ...]:
        """Return the paths of the zero-initialized layers: all modulations and the output layer."""
        blocks = range(self.network.depth)
        inner = [f"transformer_blocks.{i}.norm1.linear" for i in blocks]
        return tuple(f"transformer.{path}" for path in (*inner, "proj_out_1", "proj_out_2"))


class _SharedConditioning(nn.Module):
    """Replacement of a block's own embeddings that returns the conditioning shared by all blocks,
    which is passed to the block as its timestep."""

    def forward(self, conditioning: Tensor, labels: None, hidden_dtype: torch.dtype) -> Tensor:
        return conditioning


Calibrate = Callable[[nn.Module], Any]
"""Function that runs a network on training data, to fit α to them."""


def build(
    config: Training, calibrate: Calibrate | None = None
) -> tuple[DiffusionTransformer, tuple[str, ...]]:
    """Build and initialize the network of a run.

    Args:
        calibrate: as in ``replace_norms``.

    Returns:
        The network, and the paths of all layers in which the two arms of a pair may differ: the
        norm layers, and the layers that are zero-initialized in one arm and not in the other.
    """
    reseed(config.seed, "weights")
    model = DiffusionTransformer(config.network)
    initialize(model)
    if not config.zero_init:
        # The spelling is part of the address: another one would draw other weights.
        drop_zero_init(model, generator=generator(config.seed, "weights", "zero-initialised"))
    return model, (*replace_norms(model, config.norm, calibrate), *model.zero_initialized())


def replace_norms(
    model: DiffusionTransformer, norm: Norm, calibrate: Calibrate | None = None
) -> tuple[str, ...]:
    """Replace the norm layers in place and return their paths.

    Args:
        calibrate: called if the norm is calibrated; None for a network whose weights, α among them,
            are loaded afterwards.
    """
    if calibrate is None or not norm.calibrated:
        return convert(model, norm.uncalibrated()).paths
    return convert(model, norm, calibrate=calibrate).paths


def initialize(model: DiffusionTransformer) -> None:
    """Initialize the weights as the DiT paper's code does, from the global generator.

    Linear layers: Xavier uniform with zero biases, query, key and value as one matrix. Embeddings:
    normal. Layers in ``zero_initialized``: zeros.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for block in model.transformer.transformer_blocks:
        projections = [block.attn1.to_q, block.attn1.to_k, block.attn1.to_v]
        weights = [layer.weight.detach() for layer in projections]
        qkv = rearrange(weights, "qkv c_out c_in -> (qkv c_out) c_in")
        nn.init.xavier_uniform_(qkv)
        drawn = rearrange(qkv, "(qkv c_out) c_in -> qkv c_out c_in", qkv=3)
        with torch.no_grad():
            for layer, weight in zip(projections, drawn, strict=True):
                layer.weight.copy_(weight)
    patches = model.transformer.pos_embed.proj
    nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
    nn.init.zeros_(patches.bias)
    embedder = model.embedder
    for layer in (
        embedder.class_embedder.embedding_table,
        embedder.timestep_embedder.linear_1,
        embedder.timestep_embedder.linear_2,
    ):
        nn.init.normal_(layer.weight, std=0.02)
    for path in model.zero_initialized():
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
