"""Data source of the released Caduceus weights, and the layout of its folder; no torch."""

from __future__ import annotations

from pathlib import Path

from matched import DataSource
from matched.data_files import refuse_pointer

WEIGHTS = ("weights.ckpt", "model.safetensors", "pytorch_model.bin")
"""Files of weights in a folder of kuleshov-group/caduceus-* on Hugging Face, or of a trainer."""


def weights_file(path: Path) -> Path:
    """Return the file of weights: ``path`` itself, or the one in this folder.

    Raises:
        ValueError: if there is none.
    """
    if path.is_file():
        return path
    found = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise ValueError(
            f"{path} has no weights; expected a folder of kuleshov-group/caduceus-* on Hugging "
            f"Face with {' or '.join(WEIGHTS)}, or a checkpoint file"
        )
    return found


def check_weights(path: Path) -> None:
    """Check that there is a file of weights, and not a pointer of git-lfs.

    Raises:
        ValueError: if not.
    """
    refuse_pointer(weights_file(path))


CADUCEUS_WEIGHTS = DataSource(title="released weights of Caduceus", check=check_weights)
