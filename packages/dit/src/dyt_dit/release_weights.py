"""Conversion between state dicts of this package and those of the DiT release.

Weights written by training can be sampled with the release's own scripts (LN; with the authors'
DyT patch for DyT), and the released weights can be loaded here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from dyt_dit.model import DiffusionTransformer
from matched.training.artifacts import load_artifact, mismatch_summary, state_dict_mismatches

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
"""(release's module path, ours); the release has query, key and value as one layer, attn.qkv."""

QKV = ("attn.q", "attn.k", "attn.v")
POSITIONS = "pos_embed"
"""Fixed sine-cosine positions, which are in the release's state dict but not in diffusers'."""

StateDict = Mapping[str, Tensor]


def to_release(model: DiffusionTransformer, state: StateDict) -> dict[str, Tensor]:
    """Return a state dict of ``model`` under the release's names, with the positions.

    Args:
        model: the network, from which the positions are taken.
        state: full (not sharded) tensors under the names of ``model.state_dict()``.
    """
    renamed = {_renamed(name, to_release=True): tensor for name, tensor in state.items()}
    release = {POSITIONS: model.transformer.pos_embed.pos_embed.detach().cpu().clone()}
    for name, tensor in renamed.items():
        if ".attn.q." in name:
            qkv = [renamed[name.replace(".attn.q.", f".{layer}.")] for layer in QKV]
            stacked = rearrange(qkv, "qkv c_out ... -> (qkv c_out) ...")
            release[name.replace(".attn.q.", ".attn.qkv.")] = stacked
        elif ".attn.k." not in name and ".attn.v." not in name:
            release[name] = tensor
    return release


def from_release(state: StateDict) -> dict[str, Tensor]:
    """Return the release's state dict under our names, without the positions."""
    ours = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            qkv = rearrange(tensor, "(qkv c_out) ... -> qkv c_out ...", qkv=3)
            for layer, weight in zip(QKV, qkv, strict=True):
                split_name = name.replace(".attn.qkv.", f".{layer}.")
                ours[_renamed(split_name, to_release=False)] = weight
        elif name != POSITIONS:
            ours[_renamed(name, to_release=False)] = tensor
    return ours


def load(model: DiffusionTransformer, file: Path) -> None:
    """Load a checkpoint of the DiT release or of this package; all keys and shapes must match.

    Training checkpoints contain several state dicts; the EMA weights are loaded, as in the
    release's scripts.

    Raises:
        ValueError: if the file is not such a checkpoint, or belongs to another network or one
            with other norm layers. Nothing is loaded then.
    """
    content = load_artifact(file)
    state = content.get("ema", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{file} has no weights; expected a state dict of the DiT release, or one under 'ema'"
        )
    load_state_dict(model, state, str(file))


def load_state_dict(model: DiffusionTransformer, state: StateDict, source: str) -> None:
    """Load a state dict under the release's names; ``source`` is its name in error messages.

    Raises:
        ValueError: as ``load``.
    """
    expected = to_release(model, {n: t.detach() for n, t in model.state_dict().items()})
    if mismatches := state_dict_mismatches(expected, state):
        raise ValueError(
            f"{source} does not fit {model.network}: {mismatch_summary(mismatches)}. "
            "Nothing was loaded"
        )
    if not torch.allclose(state[POSITIONS].float(), expected[POSITIONS], atol=1e-5):
        raise ValueError(f"{source} has other positions than the sine-cosine ones of the DiT paper")
    model.load_state_dict(from_release(state))


def _renamed(name: str, *, to_release: bool) -> str:
    """Translate a parameter name to or from the release's; return unknown names unchanged."""
    blocks = ("transformer.transformer_blocks", "blocks")
    source, target = blocks if to_release else blocks[::-1]
    pairs: tuple[tuple[str, str], ...] = PAIRS
    source_prefix = target_prefix = ""
    if match := re.match(rf"{re.escape(source)}\.(\d+)\.", name):
        pairs, source_prefix, target_prefix = BLOCK_PAIRS, match[0], f"{target}.{match[1]}."
    path, _, parameter = name.removeprefix(source_prefix).rpartition(".")
    table = {ours: release for release, ours in pairs} if to_release else dict(pairs)
    return f"{target_prefix}{table[path]}.{parameter}" if path in table else name
