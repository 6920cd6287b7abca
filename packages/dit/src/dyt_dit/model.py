"""Diffusers' diffusion transformer, made into the one of the DiT paper, with any norm layer.

As it comes, ``DiTTransformer2DModel`` differs from the network of Peebles and Xie (2023, arXiv
2212.09748, Section 3.2) in what it was never needed for: it does not initialise its weights as the
paper does, every block has timestep and label embeddings of its own that drop labels each for
itself, and the frequencies of the timestep embedding are others.
"""

from __future__ import annotations

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings
from torch import Tensor, nn

from dyt import Norm, convert
from dyt.architecture_rules import drop_zero_init
from dyt_dit.config import Network, Training
from matched.training import reseed
from matched.training.seeding import generator

EPSILON = 1e-6


class DiffusionTransformer(nn.Module):
    """Predicts the noise in a noised latent, and the variance of the step that removes it.

    Its LayerNorms have no affine part; scale, shift and gate come from the modulation (adaLN-Zero).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.embedder = CombinedTimestepLabelEmbeddings(network.classes, network.width)
        self.embedder.time_proj.downscale_freq_shift = 0  # the paper's frequencies
        # The extra embedding, for no label, is there; whose label is dropped decides the batch.
        self.embedder.class_embedder.dropout_prob = 0.0
        self.transformer = DiTTransformer2DModel(
            num_attention_heads=network.heads,
            attention_head_dim=network.width // network.heads,
            in_channels=network.channels,
            out_channels=2 * network.channels,
            num_layers=network.depth,
            sample_size=network.input_size,
            patch_size=network.patch_size,
            num_embeds_ada_norm=1,  # the blocks' own embeddings are not kept
            norm_eps=EPSILON,
        )
        for block in self.transformer.transformer_blocks:
            block.norm1.emb = _Given()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """
        Args:
            x: noised latents (B, C, H, W).
            t: steps of the forward process (B,), from 0.
            labels: (B,), from 0; the number of classes stands for no label.

        Returns:
            (B, 2C, H, W): the noise, and where the log-variance lies between its bounds, as -1 to 1
            (Nichol and Dhariwal 2021, Eq. 15).
        """
        conditioning = self.embedder(t, labels, hidden_dtype=x.dtype)
        return self.transformer(x, timestep=conditioning, return_dict=False)[0]

    def zeroed(self) -> tuple[str, ...]:
        """Paths of the layers that start at zero: every modulation, and the output layer."""
        blocks = range(self.network.depth)
        inner = [f"transformer_blocks.{i}.norm1.linear" for i in blocks]
        return tuple(f"transformer.{path}" for path in (*inner, "proj_out_1", "proj_out_2"))


class _Given(nn.Module):
    """In the place of a block's own embeddings: the conditioning comes in the timestep's place."""

    def forward(self, conditioning: Tensor, labels: None, hidden_dtype: torch.dtype) -> Tensor:
        return conditioning


def build(config: Training) -> tuple[DiffusionTransformer, tuple[str, ...]]:
    """The network of a run, initialised, and the paths of all in which a pair may differ.

    These are the norm layers, and the layers that start at zero in one arm and not in the other.
    """
    reseed(config.seed, "weights")
    model = DiffusionTransformer(config.network)
    initialise(model)
    if not config.zero_init:
        drop_zero_init(model, generator=generator(config.seed, "weights", "zero-initialised"))
    return model, (*replace_norms(model, config.norm), *model.zeroed())


def replace_norms(model: DiffusionTransformer, norm: Norm) -> tuple[str, ...]:
    """Put in the norm layer that a config asks for, in place; the paths of the norm layers."""
    return convert(model, norm).paths


def initialise(model: DiffusionTransformer) -> None:
    """Draw the first weights as the DiT paper's code does, from the global generator.

    Xavier-uniform with zero biases, query, key and value as one matrix; embeddings from a normal
    distribution; zeros where ``zeroed`` says.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for block in model.transformer.transformer_blocks:
        parts = [block.attn1.to_q, block.attn1.to_k, block.attn1.to_v]
        whole = torch.cat([part.weight.detach() for part in parts])
        nn.init.xavier_uniform_(whole)
        with torch.no_grad():
            for part, drawn in zip(parts, whole.chunk(3), strict=True):
                part.weight.copy_(drawn)
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
    for path in model.zeroed():
        nn.init.zeros_(model.get_submodule(path).weight)
