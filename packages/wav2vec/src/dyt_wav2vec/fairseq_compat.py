"""The one place where fairseq is imported: 0.12.2 needs help on Python 3.11 and later.

These refuse a dataclass whose default is an instance of an unhashable class, which fairseq's
nested configs are. They get a hash while fairseq is loaded; no installed file is edited.
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
MESSAGE = 1 << 14
"""Bytes that processes tell each other after an update, at most: common.all_gather_list_size."""


def load() -> ModuleType:
    """The module ``fairseq``, with its tasks, models and criteria registered.

    The first call takes some seconds, later ones none. Dataclasses of other packages, and the
    handlers of the root logger, are what they were before.

    Raises:
        ValueError: fairseq is missing, is another version, or misses something that it needs.
    """
    if "fairseq" in sys.modules:
        return sys.modules["fairseq"]
    _check_version()
    try:
        with _hashable_configs(), _same_logging():
            return importlib.import_module("fairseq")
    except ImportError as error:
        raise ValueError(
            f"fairseq {VERSION} cannot be imported: {error}. Run `make setup`, which installs the"
            " versions that it works with"
        ) from error


@contextmanager
def one_run(world: int) -> Iterator[None]:
    """What fairseq keeps from call to call belongs to one run: process group, buffers, meters.

    Args:
        world: processes of the run, whose group has been set up.
    """
    import torch
    from fairseq.distributed import utils
    from fairseq.logging import metrics

    gather = utils.all_gather_list
    if world > 1 and not torch.cuda.is_available():
        # It would make them on a GPU.
        gather._buffer = torch.zeros(world * MESSAGE, dtype=torch.uint8)
        gather._cpu_buffer = torch.zeros(MESSAGE, dtype=torch.uint8)
    metrics.reset()
    try:
        yield
    finally:
        for holder, names in (
            (utils.get_global_group, ("_global_group",)),
            (gather, ("_buffer", "_cpu_buffer")),
        ):
            for name in names:
                vars(holder).pop(name, None)


def _check_version() -> None:
    try:
        found = importlib.metadata.version("fairseq")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"fairseq is not installed; expected {VERSION}. Run `make setup`"
        ) from None
    if found != VERSION:
        raise ValueError(f"fairseq is {found}; expected {VERSION}. Run `make setup`")


@contextmanager
def _hashable_configs() -> Iterator[None]:
    """Meanwhile fairseq's dataclasses are hashed by identity where they would have no hash."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        made = original(cls, **options)
        if made.__module__.split(".")[0] == "fairseq" and made.__hash__ is None:
            made.__hash__ = object.__hash__
        return made

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original
        # Modules loaded meanwhile, fairseq's and others, have taken the name.
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            if names.get("dataclass") is dataclass:
                names["dataclass"] = original


@contextmanager
def _same_logging() -> Iterator[None]:
    """What fairseq does to the root logger when it is imported is undone, and not heard."""
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
