"""Import of fairseq 0.12.2 on Python 3.11 and later, and isolation of its global state.

Python 3.11 and later reject a dataclass field whose default is an instance of an unhashable class,
as in fairseq's nested configs. Those classes get a hash while fairseq is imported; no installed
file is edited.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

VERSION = "0.12.2"
NEWEST_PYTHON = (3, 13)
GATHER_BUFFER_BYTES = 1 << 14
"""Maximum bytes that a process sends to the others after an update: common.all_gather_list_size."""


def python_refusal(version: tuple[int, ...] = sys.version_info) -> str:
    """Return why fairseq cannot run in this version of Python, or an empty string if it can.

    fairseq recognizes ``Optional[str]`` by its text, which Python 3.14 changed to ``str | None``.
    """
    if version[:2] <= NEWEST_PYTHON:
        return ""
    return (
        f"wav2vec 2.0 needs Python 3.11 to 3.13, because fairseq {VERSION} cannot read the types "
        f"of its configs in {version[0]}.{version[1]}; everything else runs. Create an environment "
        "for it: `make setup VENV=.venv-wav2vec PYTHON=python3.13`"
    )


def load() -> ModuleType:
    """Import and return the module ``fairseq``, with its tasks, models and criteria registered.

    The first call takes some seconds. Dataclasses of other packages and the handlers of the root
    logger are left unchanged.

    Raises:
        ValueError: if fairseq is missing, is another version, or lacks a dependency, or if this
            version of Python is too new for it.
    """
    if "fairseq" in sys.modules:
        return sys.modules["fairseq"]
    _check_version()
    try:
        with _hashable_configs(), _unchanged_logging():
            return importlib.import_module("fairseq")
    except ImportError as error:
        raise ValueError(
            f"fairseq {VERSION} cannot be imported: {error}. Run `make setup`, which installs"
            " compatible versions of its dependencies"
        ) from error


@contextmanager
def isolated_state(world_size: int) -> Iterator[None]:
    """Give a run its own process group, gather buffers and meters, which fairseq keeps globally.

    Args:
        world_size: processes of the run, whose process group has been initialized.
    """
    import torch
    from fairseq.distributed import utils
    from fairseq.logging import metrics

    gather = utils.all_gather_list
    if world_size > 1 and not torch.cuda.is_available():
        # fairseq would allocate them on a GPU.
        gather._buffer = torch.zeros(world_size * GATHER_BUFFER_BYTES, dtype=torch.uint8)
        gather._cpu_buffer = torch.zeros(GATHER_BUFFER_BYTES, dtype=torch.uint8)
    metrics.reset()
    try:
        yield
    finally:
        for function, names in (
            (utils.get_global_group, ("_global_group",)),
            (gather, ("_buffer", "_cpu_buffer")),
        ):
            for name in names:
                vars(function).pop(name, None)


def _check_version() -> None:
    if refusal := python_refusal():
        raise ValueError(refusal)
    try:
        version = importlib.metadata.version("fairseq")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"fairseq is not installed; expected {VERSION}. Run `make setup`"
        ) from None
    if version != VERSION:
        raise ValueError(f"fairseq is {version}; expected {VERSION}. Run `make setup`")


@contextmanager
def _hashable_configs() -> Iterator[None]:
    """Within this context, give unhashable fairseq dataclasses an identity hash."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        cls = original(cls, **options)
        if cls.__module__.split(".")[0] == "fairseq" and cls.__hash__ is None:
            cls.__hash__ = object.__hash__
        return cls

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original
        # Modules imported within this context have bound the replacement by name.
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            if names.get("dataclass") is dataclass:
                names["dataclass"] = original


@contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Silence the import of fairseq, and undo its changes to the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    disabled = root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
