"""Weights in the layouts of the official releases: names both ways, strict loading.

Three layouts are read: this package's names, which are those of the official modules; Lightning
checkpoints of the official trainer; and Hugging Face, ``kuleshov-group/caduceus-*``. The names tell
the variants apart: PS wraps every layer that the strands share, and the fused path of the official
code, which exchanges the strands, does not wrap the norms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dyt_caduceus.model import CaduceusClassifier, CaduceusLanguageModel
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna.weights import read_state_dict, refuse_mismatches
from matched.training.artifacts import state_dict_mismatches

Layout = Literal["lightning", "huggingface"]
StateDict = Mapping[str, Tensor]

BACKBONE = "backbone."
HEAD = "head."
LIGHTNING_HEAD = "decoder.0.output_transform."
SHARED = re.compile(r"\.mamba_(?:fwd|rev)\.(in_proj|out_proj)\.")
"""Part of the names of the projections that both directions share."""


def official_state(state: StateDict, layout: Layout) -> dict[str, Tensor]:
    """Return a state dict under official names.

    Args:
        state: full (not sharded) tensors under the names of ``model.state_dict()``.
        layout: "lightning" for ``checkpoint["state_dict"]`` of the official trainer;
            "huggingface" for ``CaduceusForMaskedLM``, which has no counterpart to the classifier's
            head: that of ``CaduceusForSequenceClassification`` has no bias.

    Raises:
        ValueError: if the layout is "huggingface" and the state dict is that of a classifier.
    """
    if layout == "huggingface" and any(name.startswith(HEAD) for name in state):
        raise ValueError(
            "Hugging Face's classifier has no bias; expected the state dict of a language model, "
            "or the backbone's part of it"
        )
    prefix = "model." if layout == "lightning" else ""
    official = {}
    for name, tensor in state.items():
        if name.startswith(BACKBONE):
            official[f"{prefix}caduceus.{name}"] = tensor
        elif name.startswith(HEAD):
            official[name.replace(HEAD, LIGHTNING_HEAD, 1)] = tensor
        else:
            official[f"{prefix}{name}"] = tensor
    return official


def from_official(state: StateDict) -> dict[str, Tensor]:
    """Return a state dict under this package's names, from any of the layouts.

    Tied tensors that a file stores once, as safetensors does, are listed under all their names.

    Raises:
        ValueError: if tensors differ that are tied in Caduceus. transformers 5 leaves the output
            layer of the official code untied, and a model trained with it is another one.
    """
    ours = {_renamed(name): tensor for name, tensor in state.items()}
    for name in [name for name in ours if SHARED.search(name)]:
        for direction in ("fwd", "rev"):
            _tie(ours, name, SHARED.sub(rf".mamba_{direction}.\1.", name))
    if not any(name.startswith(HEAD) for name in ours):
        embedding, output = "backbone.embeddings.word_embeddings.weight", "lm_head.weight"
        if variant_of(ours) != "ph":
            embedding = embedding.replace("weight", "embedding.weight")
            output = output.replace("weight", "lm_head.weight")
        for name, twin in ((embedding, output), (output, embedding)):
            if name in ours:
                _tie(ours, name, twin)
    return ours


def variant_of(state: StateDict) -> str:
    """Return "ph", "ps", or "ps with strand_exchange": the variant that names belong to."""
    if not any(".mixer.submodule." in name for name in state):
        return "ph"
    return "ps" if any(".norm.submodule." in name for name in state) else "ps with strand_exchange"


def read(file: Path) -> dict[str, Tensor]:
    """Return the weights in a file of any layout, under this package's names.

    Args:
        file: a Lightning checkpoint (``.ckpt``), ``model.safetensors``, ``pytorch_model.bin``, or
            an artifact of a run, {"model": …}.

    Raises:
        ValueError: if there is no such file, or it contains no weights of Caduceus.
    """
    state = read_state_dict(file, network="Caduceus", marker="mamba_fwd")
    return from_official(state)


def load(model: nn.Module, file: Path) -> tuple[str, ...]:
    """Load a file of any layout strictly: every key, every shape.

    Returns:
        The names of the loaded tensors.

    Raises:
        ValueError: as ``read``, or if the weights are of another network or variant; nothing is
            loaded then.
    """
    return load_state(model, read(file), str(file))


def load_state(model: nn.Module, state: StateDict, source: str) -> tuple[str, ...]:
    """Load a state dict of any layout as ``load`` does; ``source`` is its name in messages."""
    return _load(model, from_official(state), source, prefix="")


def load_backbone(model: nn.Module, state: StateDict) -> tuple[str, ...]:
    """Load the backbone of a pretrained network, of any layout; the model's own head stays.

    Every tensor of the backbone must be there, α of converted norm layers included: the official
    loader leaves those out that it does not find, and trains DyT networks on with new norms.

    Returns:
        The names of the loaded tensors.

    Raises:
        ValueError: if the network has another width, vocabulary, depth, norm or variant; nothing
            is loaded then.
    """
    ours = from_official(state)
    backbone = {name: tensor for name, tensor in ours.items() if name.startswith(BACKBONE)}
    return _load(model, backbone, "the pretrained network", prefix=BACKBONE)


def _load(model: nn.Module, state: StateDict, source: str, *, prefix: str) -> tuple[str, ...]:
    assert isinstance(model, CaduceusLanguageModel | CaduceusClassifier)
    expected = {name: t for name, t in model.state_dict().items() if name.startswith(prefix)}
    found, wanted = variant_of(state), _variant(model.network)
    if found != wanted:
        raise ValueError(
            f"{source} has weights of the variant {found}, but the network's config is of the "
            f"variant {wanted}; set variant and strand_exchange as the weights have them. "
            "Nothing was loaded"
        )
    mismatches = state_dict_mismatches(expected, state)
    if not mismatches:
        buffers = [name for name in expected if name.endswith(".complement_map")]
        mismatches = [
            f"{name} has other complements"
            for name in buffers
            if not torch.equal(expected[name].cpu(), state[name].cpu())
        ]
    refuse_mismatches(model, mismatches, source)
    model.load_state_dict(dict(state), strict=False)
    return tuple(expected)


def _variant(network: CaduceusNetwork) -> str:
    return f"{network.variant} with strand_exchange" if network.strand_exchange else network.variant


def _renamed(name: str) -> str:
    """Translate a name of any layout to this package's; return unknown names unchanged."""
    name = name.removeprefix("model.").removeprefix("caduceus.")
    return name.replace(LIGHTNING_HEAD, HEAD, 1) if name.startswith(LIGHTNING_HEAD) else name


def _tie(state: dict[str, Tensor], name: str, twin: str) -> None:
    """Add a tied tensor under its second name, or check that both are equal."""
    if twin not in state:
        state[twin] = state[name]
    elif not torch.equal(state[name], state[twin]):
        raise ValueError(
            f"{name} differs from {twin}; expected equal tensors, which are one parameter in "
            "Caduceus"
        )
