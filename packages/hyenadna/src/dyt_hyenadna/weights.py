"""Weights in the layouts of the official releases: names both ways, strict loading.

Three layouts are read: this package's names, which are those of the official modules; Lightning
checkpoints of the official trainers and of ``LongSafari/hyenadna-*``; and the port to Hugging Face,
``LongSafari/hyenadna-*-hf``. Two are written for others to load: see ``official_state``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyt_hyenadna.lightning_checkpoint import load_lightning
from matched.data_files import refuse_pointer
from matched.training.artifacts import load_artifact, mismatch_summary, state_dict_mismatches

Layout = Literal["lightning", "lightning-checkpointed", "huggingface"]
StateDict = Mapping[str, Tensor]

EMBEDDING = "backbone.embeddings.word_embeddings.weight"
OUTPUT = "lm_head.weight"
BACKBONE = "backbone."
HEAD = "head."
LIGHTNING_HEAD = "decoder.0.output_transform."
FREQUENCIES = re.compile(r"(\.implicit_filter\.)([135])(\.freq)$")


def official_state(state: StateDict, layout: Layout) -> dict[str, Tensor]:
    """Return a state dict under official names.

    Args:
        state: full (not sharded) tensors under the names of ``model.state_dict()``.
        layout: "lightning" for ``checkpoint["state_dict"]`` of the official trainers;
            "lightning-checkpointed" for the same of networks trained with ``checkpoint_mixer`` and
            ``checkpoint_mlp``; "huggingface" for the port, which shares each filter's frequencies
            under one name and has no counterpart to the classifier's head: it pools otherwise.

    Raises:
        ValueError: if the layout is "huggingface" and the state dict is that of a classifier.
    """
    if layout == "huggingface":
        if any(name.startswith(HEAD) for name in state):
            raise ValueError(
                "Hugging Face's port has no classifier that pools like this one; expected the "
                "state dict of a language model, or the backbone's part of it"
            )
        kept = {name: tensor for name, tensor in state.items() if _first_name(name) == name}
        return {
            **{f"hyena.{name}": tensor for name, tensor in kept.items()},
            **{name: tensor for name, tensor in state.items() if name == OUTPUT},
        }
    official = {}
    for name, tensor in state.items():
        if layout == "lightning-checkpointed":
            name = re.sub(r"\.(mixer|mlp)\.", r".\1.layer.", name)
        is_head = name.startswith(HEAD)
        official[name.replace(HEAD, LIGHTNING_HEAD, 1) if is_head else f"model.{name}"] = tensor
    return official


def from_official(state: StateDict) -> dict[str, Tensor]:
    """Return a state dict under this package's names, from any of the layouts.

    Tied tensors that a layout stores once are listed under all their names. A classifier's state
    dict has no output layer, which some official classifiers have and do not use.

    Raises:
        ValueError: if tensors differ that are tied in HyenaDNA.
    """
    renamed = {_renamed(name): tensor for name, tensor in state.items()}
    is_classifier = any(name.startswith(HEAD) for name in renamed)
    if is_classifier:
        renamed.pop(OUTPUT, None)
    first: dict[str, Tensor] = {}
    for name, tensor in renamed.items():
        other = first.setdefault(_first_name(name), tensor)
        if other is not tensor and not torch.equal(other, tensor):
            raise ValueError(
                f"{name} differs from {_first_name(name)}; expected equal tensors, which are one "
                "parameter in HyenaDNA"
            )
    ours = {}
    for name, tensor in first.items():
        names = [name]
        if FREQUENCIES.search(name):
            names = [FREQUENCIES.sub(rf"\g<1>{index}\3", name) for index in (1, 3, 5)]
        ours.update(dict.fromkeys(names, tensor))
    if EMBEDDING in ours and not is_classifier:
        ours[OUTPUT] = ours[EMBEDDING]
    return ours


def read(file: Path) -> dict[str, Tensor]:
    """Return the weights in a file of any layout, under this package's names.

    Args:
        file: a Lightning checkpoint (``.ckpt``), ``model.safetensors``, ``pytorch_model.bin``, or
            an artifact of a run, {"model": …}.

    Raises:
        ValueError: if there is no such file, or it contains no weights of HyenaDNA.
    """
    return from_official(read_state_dict(file, network="HyenaDNA", marker=BACKBONE))


def load(model: nn.Module, file: Path) -> tuple[str, ...]:
    """Load a file of any layout strictly: every key, every shape.

    Returns:
        The names of the loaded tensors.

    Raises:
        ValueError: as ``read``, or if the weights are of another network; nothing is loaded then.
    """
    return load_state(model, read(file), str(file))


def load_state(model: nn.Module, state: StateDict, source: str) -> tuple[str, ...]:
    """Load a state dict as ``load`` does; ``source`` describes it in the error message."""
    return _load(model, from_official(state), source, prefix="")


def load_backbone(model: nn.Module, state: StateDict) -> tuple[str, ...]:
    """Load the backbone of a pretrained network, of any layout; the model's own head stays.

    Every tensor of the backbone must be there, α of converted norm layers included: the official
    loader leaves those out that it does not find, and trains DyT networks on with new LayerNorms.

    Returns:
        The names of the loaded tensors.

    Raises:
        ValueError: if the network has another width, vocabulary, length, depth or norm; nothing is
            loaded then.
    """
    kept = {name: t for name, t in state.items() if not name.endswith(OUTPUT)}
    ours = {name: t for name, t in from_official(kept).items() if name.startswith(BACKBONE)}
    return _load(model, ours, "the pretrained network", prefix=BACKBONE)


def _load(model: nn.Module, state: StateDict, source: str, *, prefix: str) -> tuple[str, ...]:
    expected = {name: t for name, t in model.state_dict().items() if name.startswith(prefix)}
    refuse_mismatches(model, state_dict_mismatches(expected, state), source)
    model.load_state_dict(dict(state), strict=False)
    return tuple(expected)


def refuse_mismatches(model: nn.Module, mismatches: Sequence[str], source: str) -> None:
    """Refuse weights of another architecture.

    Raises:
        ValueError: if there are mismatches (``state_dict_mismatches``); it names the first.
    """
    if mismatches:
        raise ValueError(
            f"{source} is of another architecture than this {type(model).__name__}: "
            f"{mismatch_summary(mismatches)}. Nothing was loaded"
        )


def read_state_dict(file: Path, *, network: str, marker: str) -> StateDict:
    """Return the state dict in a file that ``read`` reads, of this or of another architecture.

    Args:
        network: name of the architecture, for the message.
        marker: part of a name of its weights.

    Raises:
        ValueError: if there is no such file, it is damaged, or no name contains the marker.
    """
    content = _load_checkpoint_file(file)
    for part in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(part), Mapping):
            content = content[part]
    tensors = isinstance(content, Mapping) and all(isinstance(v, Tensor) for v in content.values())
    if not tensors or not any(marker in name for name in content):
        raise ValueError(
            f"{file} has no weights of {network}; expected names that contain {marker!r}, in a "
            "state dict or in one under 'state_dict' or 'model'"
        )
    state: StateDict = content
    return state


def _load_checkpoint_file(file: Path) -> Any:
    if file.suffix == ".ckpt":
        return load_lightning(file)
    if file.suffix != ".safetensors":
        return load_artifact(file)
    refuse_pointer(file)
    if not file.is_file():
        raise ValueError(f"there is no checkpoint {file}")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error


def _renamed(name: str) -> str:
    """Translate a name of any layout to this package's; return unknown names unchanged."""
    name = name.removeprefix("model.").removeprefix("hyena.")
    name = re.sub(r"\.(mixer|mlp)\.layer\.", r".\1.", name)
    return name.replace(LIGHTNING_HEAD, HEAD, 1) if name.startswith(LIGHTNING_HEAD) else name


def _first_name(name: str) -> str:
    """Return the first of the names of a tied tensor, and other names unchanged."""
    return EMBEDDING if name == OUTPUT else FREQUENCIES.sub(r"\g<1>1\3", name)
