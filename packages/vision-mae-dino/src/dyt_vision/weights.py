"""Pretrained weights in the layout of the official releases: export, loading, key-by-key checks.

A pretraining run writes ``pretrained.pth`` into its directory: {"model": …} with the names of the
MAE release, or {"student": …, "teacher": …} with those of the DINO release. The releases' scripts
can read these files, and their checkpoints can be loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from matched.task import Context
from matched.training.artifacts import (
    gather_state_dict,
    load_artifact,
    mismatch_summary,
    save_artifact,
    state_dict_mismatches,
)

PRETRAINED_FILE = "pretrained.pth"
CLASSIFIER_ONLY = ("head.", "fc_norm.")
"""Prefixes of a classifier's parameters that pretraining does not have."""
PRETRAINING_ONLY = ("head.", "norm.", "mask_token", "decoder")
"""Prefixes of pretraining parameters that a classifier, which normalizes after pooling, lacks."""

StateDict = Mapping[str, Tensor]


def export(context: Context, **states: StateDict) -> None:
    """Write the weights of a finished pretraining atomically; called by all processes."""
    content = {part: gather_state_dict(state) for part, state in states.items()}
    save_artifact(context, PRETRAINED_FILE, content)


def read_exported(directory: Path, part: str | None = None) -> dict[str, Tensor]:
    """Return the encoder that a pretraining run exported: MAE's, or DINO's teacher.

    Args:
        part: as for ``read``.

    Raises:
        ValueError: if the file is missing or damaged; the message says how to recreate it.
    """
    try:
        return read(directory / PRETRAINED_FILE, part)
    except ValueError as error:
        raise ValueError(
            f"{error}. The pretraining has ended: delete {directory / 'result.json'} and submit "
            "again, which recreates the file from the last checkpoint"
        ) from error


def read(file: Path, part: str | None = None) -> dict[str, Tensor]:
    """Return the weights in a checkpoint of the MAE or the DINO release, or of this package.

    Args:
        part: "model" (MAE), "teacher" or "student" (DINO); None takes the first of these.

    Returns:
        State dict with the network's own names, without "module." (DDP) and, for DINO, "backbone.";
        DINO's projection head is left out.

    Raises:
        ValueError: if the file is not such a checkpoint.
    """
    content = load_artifact(file)
    parts = [part] if part else ["model", "teacher", "student"]
    state = next((content[p] for p in parts if isinstance(content, dict) and p in content), content)
    if part and state is content:
        has = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ValueError(f"{file} has no {part!r}; it has {has}")
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{file} contains no weights; expected a state dict, or one under {' or '.join(parts)}"
        )
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith("backbone.") for name in state):
        return _strip_prefix("backbone.", state)
    return state


def load(model: nn.Module, file: Path, part: str | None = None) -> tuple[str, ...]:
    """Load a checkpoint of a release or of this package strictly: every key, every shape.

    Args:
        model: a ``MaskedAutoencoder``, a DINO ``Backbone``, or a fine-tuned classifier.
        part: as for ``read``.

    Returns:
        The names of the loaded tensors.

    Raises:
        ValueError: if the checkpoint is of another architecture; nothing is loaded then.
    """
    return load_state(model, read(file, part), f"{file}")


def load_state(model: nn.Module, state: StateDict, source: str) -> tuple[str, ...]:
    """Load a state dict as ``load`` does; ``source`` describes it in the error message."""
    return _load(model, state, source, needed=lambda name: True, used=lambda name: True)


def load_encoder(model: nn.Module, state: StateDict) -> tuple[str, ...]:
    """Load the encoder of a pretrained network into a classifier; its head and last norm stay.

    Returns:
        The names of the loaded tensors.

    Raises:
        ValueError: if the network is of another architecture; nothing is loaded then.
    """
    return _load(
        model,
        state,
        "the pretrained network",
        needed=lambda name: not name.startswith(CLASSIFIER_ONLY),
        used=lambda name: not name.startswith(PRETRAINING_ONLY),
    )


def _load(
    model: nn.Module,
    state: StateDict,
    source: str,
    *,
    needed: Callable[[str], bool],
    used: Callable[[str], bool],
) -> tuple[str, ...]:
    expected = {name: tensor for name, tensor in model.state_dict().items() if needed(name)}
    loaded = {name: tensor for name, tensor in state.items() if used(name)}
    if mismatches := state_dict_mismatches(expected, loaded):
        raise ValueError(
            f"{source} is of another architecture than {type(model).__name__}: "
            f"{mismatch_summary(mismatches)}. Nothing was loaded"
        )
    model.load_state_dict(loaded, strict=False)
    return tuple(loaded)


def _strip_prefix(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values whose names have the prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
