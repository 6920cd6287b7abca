"""Checkpoints that are whole or absent: the last two are kept, a damaged one is passed over."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from matched.files import written_whole

log = logging.getLogger("matched")
KEPT = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write ``folder``/step_00001000.pt and delete all but the newest checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / f"step_{step:08d}.pt") as temporary:
        torch.save(state, temporary)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


def newest(folder: Path, signature: str) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; damaged ones are named in the log and passed over.

    Its tensors are on the CPU; ``load_state_dict`` copies each to where it belongs. AdamW's step
    counts belong on the CPU: on a GPU, every step would wait for them.

    Raises:
        ValueError: if it is of another run.
    """
    for path in _newest_first(folder):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            log.warning("%s is damaged (%s); trying the one before", path, error)
            continue
        found = state.get("signature") if isinstance(state, dict) else None
        if found != signature:
            raise ValueError(
                f"{path} is a checkpoint of run {found}, not of {signature}; "
                "move it away to start this run from the beginning"
            )
        return state
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.pt"), reverse=True)
