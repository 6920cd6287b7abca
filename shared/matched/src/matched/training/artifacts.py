"""Artifacts: files that a run leaves in its directory for the runs that need it."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from matched.data_files import refuse_pointer
from matched.files import read_json
from matched.task import Context, Outcome
from matched.training.checksums import verify_if_present
from matched.training.distributed import on_rank0

TRAINING_DIVERGED = Outcome(
    metrics={}, diverged=True, steps=0, details={"reason": "the training diverged"}
)
"""Outcome of a run that needs a training whose outcome is "diverged"."""
PRETRAINING_DIVERGED = Outcome(
    metrics={}, diverged=True, steps=0, details={"reason": "the pretraining diverged"}
)
"""Outcome of a run that needs a pretraining whose outcome is "diverged"."""


def gather_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state dict to the CPU with sharded tensors gathered; all processes call it."""
    full = {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in state.items()}
    return {name: tensor.detach().cpu().clone() for name, tensor in full.items()}


def save_artifact(context: Context, name: str, content: Mapping[str, Any]) -> None:
    """Write ``content`` to ``name`` in the run directory with ``torch.save``, atomically on rank 0.

    All processes call it.

    Raises:
        LeaseLostError: on all of them, if another process has taken this run over.
    """

    def write() -> None:
        # torch.save stores the name of a path that it is given: here, the temporary name.
        with context.atomic_write(name) as temporary, temporary.open("wb") as file:
            torch.save(dict(content), file)

    on_rank0(write)


def save_arrays(context: Context, name: str, arrays: Mapping[str, Any]) -> None:
    """Write numpy arrays to ``name`` (.npz) in the run directory, atomically on rank 0.

    All processes call it.

    Raises:
        LeaseLostError: on all of them, if another process has taken this run over.
    """

    def write() -> None:
        # Given a path, numpy would add .npz to the temporary name.
        with context.atomic_write(name) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    on_rank0(write)


def load_artifact(file: Path) -> Any:
    """Return the content of a file written by ``torch.save``: tensors and plain values only.

    Raises:
        ValueError: if there is no such file, it was not written by torch, it is damaged, it
            contains other objects, or it is a pointer of git-lfs or git-annex.
    """
    refuse_pointer(file)
    try:
        verify_if_present(file)
        # Official releases store the command-line arguments of their scripts with the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {file}") from None
    except pickle.UnpicklingError as error:
        # torch's own message advises to unpickle without restrictions.
        raise ValueError(
            f"{file} cannot be read as a torch checkpoint: it is damaged, or contains objects "
            "other than tensors and plain values"
        ) from error
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} cannot be read as a torch checkpoint: {reason}") from error


def state_dict_mismatches(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> list[str]:
    """Return one phrase for each key that is not in both with the same shape.

    Args:
        own: state dict of the model; its order comes first.
        loaded: state dict to be loaded, called "the checkpoint" in the phrases.
    """
    mismatches = []
    for name in dict.fromkeys([*own, *loaded]):
        expected, found = own.get(name), loaded.get(name)
        if found is None:
            mismatches.append(f"{name} is missing in it")
        elif expected is None:
            mismatches.append(f"{name} is unknown to the model")
        elif expected.shape != found.shape:
            mismatches.append(
                f"{name} is {tuple(found.shape)} in it and {tuple(expected.shape)} here"
            )
    return mismatches


def mismatch_summary(mismatches: Sequence[str]) -> str:
    """Return how many keys differ, and the first three, for an error message."""
    if len(mismatches) == 1:
        return f"1 key differs: {mismatches[0]}"
    return f"{len(mismatches)} keys differ, the first: {'; '.join(mismatches[:3])}"


def has_diverged(directory: Path) -> bool:
    """True if the run in this directory has finished and its outcome is "diverged"."""
    return (read_json(directory / "result.json", ("outcome",)) or {}).get("outcome") == "diverged"
