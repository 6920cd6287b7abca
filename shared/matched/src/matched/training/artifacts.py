"""What one run leaves in its directory for those that need it, and whether it left anything."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from matched.files import read_json
from matched.task import Context
from matched.training.distributed import on_rank0


def gather_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU, put together where the processes hold parts of it."""
    put_together = {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in state.items()}
    return {name: tensor.detach().cpu().clone() for name, tensor in put_together.items()}


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


def load_artifact(file: Path) -> Any:
    """What a file of torch's holds, weights and plain values alone.

    Raises:
        ValueError: if there is none, or it is none of torch's, or holds anything else.
    """
    try:
        # Releases put the arguments of their scripts beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {file}") from None
    except pickle.UnpicklingError as error:
        # Torch's own words advise to unpickle whatever there is.
        raise ValueError(
            f"{file} cannot be read as a checkpoint of torch: it is damaged, or holds something "
            "besides tensors and plain values"
        ) from error
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"{file} cannot be read as a checkpoint of torch: {why}") from error


def state_dict_mismatches(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """One phrase for each key that is not in both with one shape, the model's order first."""
    found = []
    for name in dict.fromkeys([*own, *theirs]):
        here, there = own.get(name), theirs.get(name)
        if there is None:
            found.append(f"{name} is missing in it")
        elif here is None:
            found.append(f"{name} is unknown to the model")
        elif here.shape != there.shape:
            found.append(f"{name} is {tuple(there.shape)} in it and {tuple(here.shape)} here")
    return found


def has_diverged(directory: Path) -> bool:
    """Whether the run of this directory has ended by diverging."""
    return (read_json(directory / "result.json", ("outcome",)) or {}).get("outcome") == "diverged"
