"""Weights under the names of the DiT release: written by training, and read from any checkpoint.

What training leaves can be sampled with the release's own scripts (LN; their DyT patch for DyT),
and the released weights can be loaded here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dyt_dit.model import DiffusionTransformer
from matched.training.artifacts import load_artifact, state_dict_mismatches

PAIRS = (
    ("x_embedder.proj", "transformer.pos_embed.proj"),
    ("t_embedder.mlp.0", "embedder.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "embedder.timestep_embedder.linear_2"),
    ("y_embedder.embedding_table", "embedder.class_embedder.embedding_table"),
    ("final_layer.norm_final", "transformer.norm_out"),
    ("final_layer.adaLN_modulation.1", "transformer.proj_out_1"),
    ("final_layer.linear", "transformer.proj_out_2"),
)
BLOCK_PAIRS = (
    ("attn.q", "attn1.to_q"),
    ("attn.k", "attn1.to_k"),
    ("attn.v", "attn1.to_v"),
    ("attn.proj", "attn1.to_out.0"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
    ("adaLN_modulation.1", "norm1.linear"),
    ("norm1", "norm1.norm"),
    ("norm2", "norm3"),
)
"""Module paths, the release's and ours; its query, key and value are one layer, attn.qkv."""

QKV = ("attn.q", "attn.k", "attn.v")
POSITIONS = "pos_embed"
"""Fixed sine-cosine positions, which the release keeps among its weights and diffusers does not."""

State = Mapping[str, Tensor]


def to_official(model: DiffusionTransformer, state: State) -> dict[str, Tensor]:
    """A state dict of ``model`` under the release's names, positions included.

    Args:
        model: tells the positions.
        state: our names, as ``model.state_dict()`` has them, for whole tensors.
    """
    named = {_renamed(name, ours=True): tensor for name, tensor in state.items()}
    found = {POSITIONS: model.transformer.pos_embed.pos_embed.detach().cpu().clone()}
    for name, tensor in named.items():
        if ".attn.q." in name:
            parts = [named[name.replace(".attn.q.", f".{part}.")] for part in QKV]
            found[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
        elif ".attn.k." not in name and ".attn.v." not in name:
            found[name] = tensor
    return found


def from_official(state: State) -> dict[str, Tensor]:
    """The release's state dict under our names, without the positions."""
    found = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, piece in zip(QKV, tensor.chunk(3), strict=True):
                found[_renamed(name.replace(".attn.qkv.", f".{part}."), ours=False)] = piece
        elif name != POSITIONS:
            found[_renamed(name, ours=False)] = tensor
    return found


def load(model: DiffusionTransformer, file: Path) -> None:
    """Load a checkpoint of the DiT release, or of this package, strictly: every key, every shape.

    Checkpoints of training hold several states; the averaged weights are taken, as the release's
    scripts do.

    Raises:
        ValueError: if it is no such file, or is of another network, or of one with other norm
            layers; nothing is loaded then.
    """
    content = load_artifact(file)
    state = content.get("ema", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{file} holds no weights; expected a state dict of the DiT release, or one under 'ema'"
        )
    load_all(model, state, str(file))


def load_all(model: DiffusionTransformer, state: State, source: str) -> None:
    """As ``load``, of a state that has been read; ``source`` is what the message calls it."""
    own = to_official(model, {n: t.detach() for n, t in model.state_dict().items()})
    if found := state_dict_mismatches(own, state):
        raise ValueError(
            f"{source} is of another network than {model.network}: {len(found)} keys differ, "
            f"the first: {'; '.join(found[:3])}. Nothing was loaded"
        )
    if not torch.allclose(state[POSITIONS].float(), own[POSITIONS], atol=1e-5):
        raise ValueError(f"{source} has other positions than the sine-cosine ones of the DiT paper")
    model.load_state_dict(from_official(state))


def _renamed(name: str, *, ours: bool) -> str:
    """A parameter's name in the other's words; one that is in neither stays."""
    blocks = ("transformer.transformer_blocks", "blocks")
    here, there = blocks if ours else blocks[::-1]
    pairs, prefix = PAIRS, ("", "")
    if match := re.match(rf"{re.escape(here)}\.(\d+)\.", name):
        pairs, prefix = BLOCK_PAIRS, (match[0], f"{there}.{match[1]}.")
    path, _, leaf = name.removeprefix(prefix[0]).rpartition(".")
    table = {own: official for official, own in pairs} if ours else dict(pairs)
    return f"{prefix[1]}{table[path]}.{leaf}" if path in table else name
