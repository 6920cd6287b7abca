"""Lightning checkpoints, read without Lightning and without running code that they name."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from matched.data_files import refuse_pointer
from matched.training.checksums import verify_if_present

TENSOR_GLOBALS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
}
"""Globals that tensors are pickled with; torch itself replaces the names of storages."""


def load_lightning(file: Path) -> Any:
    """Return the content of a checkpoint, with placeholders for all but tensors and plain values.

    The official checkpoints also contain the trainer's configuration as objects of omegaconf, and
    the states of Lightning's callbacks; torch's restricted unpickler refuses such files altogether.

    Raises:
        ValueError: if there is no such file, it is damaged, or it is a pointer of git-lfs.
    """
    refuse_pointer(file)
    try:
        verify_if_present(file)
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_PICKLE)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {file}") from None
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} cannot be read as a torch checkpoint: {reason}") from error


class _Placeholder:
    """Object that accepts any arguments, state and items, and keeps none of them."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def append(self, _: object) -> None:
        pass

    def extend(self, _: object) -> None:
        pass

    def add(self, _: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Unpickler that imports only what tensors need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in TENSOR_GLOBALS:
            return super().find_class(module, name)
        return _Placeholder


def _load(file: BinaryIO, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PICKLE = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="pickle")
"""The part of the module ``pickle`` that torch.load uses."""
