"""Pretrained weights in the official releases' layout, written, read and compared key by key.

A pretraining run leaves ``pretrained.pth`` in its directory: {"model": …} with the names of the
MAE release, or {"student": …, "teacher": …} with those of the DINO release. What these projects'
scripts read they can read here, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from matched.task import Context, Outcome
from matched.training.artifacts import (
    gather_state_dict,
    load_artifact,
    save_artifact,
    state_dict_mismatches,
)

FILE = "pretrained.pth"
NEW = ("head.", "fc_norm.")
"""Parts of a classifier that pretraining does not have."""
LEFT = ("head.", "norm.", "mask_token", "decoder")
"""Parts of a pretrained network that a classifier does not have: it normalises after pooling."""

NOTHING_TO_START_FROM = Outcome(
    metrics={}, diverged=True, steps=0, details={"reason": "the pretraining diverged"}
)
"""What comes of a run whose pretraining left no weights worth the name."""

State = Mapping[str, Tensor]


def export(context: Context, **states: State) -> None:
    """Write the weights of a finished pretraining, whole or not at all; called by all processes."""
    save_artifact(context, FILE, {part: gather_state_dict(state) for part, state in states.items()})


def exported(directory: Path, part: str | None = None) -> dict[str, Tensor]:
    """The encoder that a pretraining run left in its directory: MAE's, or DINO's teacher.

    Args:
        part: as for ``read``.

    Raises:
        ValueError: if the file is lost or damaged; the run writes it anew, as the message says.
    """
    try:
        return read(directory / FILE, part)
    except ValueError as error:
        raise ValueError(
            f"{error}. The pretraining has ended: delete {directory / 'result.json'} and submit "
            "again, and it writes the file anew from its last checkpoint"
        ) from error


def read(file: Path, part: str | None = None) -> dict[str, Tensor]:
    """The weights in a checkpoint of the MAE or the DINO release, or of this package.

    Args:
        part: "model" (MAE), "teacher" or "student" (DINO); the first of these that it has if None.

    Returns:
        Names as the network itself has them, without "module." (DDP) and, for DINO, "backbone.";
        DINO's projection head is left out.

    Raises:
        ValueError: if the file is no such checkpoint.
    """
    content = load_artifact(file)
    parts = [part] if part else ["model", "teacher", "student"]
    found = next((content[p] for p in parts if isinstance(content, dict) and p in content), content)
    if part and found is content:
        has = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ValueError(f"{file} has no {part!r}; it has {has}")
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"{file} holds no weights; expected a state dict, or one under {' or '.join(parts)}"
        )
    named = {name.removeprefix("module."): value for name, value in found.items()}
    if any(name.startswith("backbone.") for name in named):
        return _below("backbone.", named)
    return named


def load(model: nn.Module, file: Path, part: str | None = None) -> tuple[str, ...]:
    """Load an official checkpoint, or one of this package, strictly: every key, every shape.

    Args:
        model: a ``MaskedAutoencoder``, a DINO ``Backbone``, or a fine-tuned classifier.

    Returns:
        The names of what was loaded.

    Raises:
        ValueError: if the checkpoint is of another architecture; nothing is loaded then.
    """
    return load_all(model, read(file, part), f"{file}")


def load_all(model: nn.Module, state: State, source: str) -> tuple[str, ...]:
    """As ``load``, of weights that have been read; ``source`` is what the message calls them."""
    return _load(model, state, source, needed=lambda name: True, used=lambda name: True)


def start_from(model: nn.Module, state: State) -> tuple[str, ...]:
    """Give a classifier the encoder of a pretrained network; head and last norm stay new.

    Returns:
        The names of what was loaded.

    Raises:
        ValueError: if it is of another architecture; nothing is loaded then.
    """
    return _load(
        model,
        state,
        "the pretrained network",
        needed=lambda name: not name.startswith(NEW),
        used=lambda name: not name.startswith(LEFT),
    )


def _load(
    model: nn.Module,
    state: State,
    source: str,
    *,
    needed: Callable[[str], bool],
    used: Callable[[str], bool],
) -> tuple[str, ...]:
    own = {name: tensor for name, tensor in model.state_dict().items() if needed(name)}
    theirs = {name: tensor for name, tensor in state.items() if used(name)}
    if found := state_dict_mismatches(own, theirs):
        raise ValueError(
            f"{source} is of another architecture than {type(model).__name__}: {len(found)} "
            f"keys differ, the first: {'; '.join(found[:3])}. Nothing was loaded"
        )
    model.load_state_dict(theirs, strict=False)
    return tuple(theirs)


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
