"""Checkpoints that are whole or absent: the last two are kept, a damaged one is passed over.

One process, or several with equal copies of the model, write a file, step_00001000.pt; several
with a part of it each write a folder, step_00001000. Either can be read by any number of them.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from matched.errors import one_line
from matched.files import atomic_write
from matched.training import sharded_checkpoint
from matched.training.distributed import all_gather_objects, on_rank0
from matched.training.training_state import TensorLayout, TrainingState

T = TypeVar("T")
log = logging.getLogger("matched")
KEPT = 2
NAME = re.compile(r"step_\d{8}(\.pt)?")


def save(folder: Path, step: int, state: TrainingState, *, sharded: bool) -> None:
    """Write the checkpoint of ``step`` and delete all but the newest; all processes call it.

    Raises:
        OSError: on all of them, if it could not be written; the earlier ones are then untouched.
    """
    if not sharded:
        save_file(folder, step, {"tensors": state.tensors, "plain": state.plain})
        return
    path = folder / f"step_{step:08d}"
    _write_folder(path, state)
    on_rank0(lambda: _clear(path))


def save_file(folder: Path, step: int, content: Mapping[str, Any]) -> None:
    """As ``save``, for a trainer that has a form of its own for what a checkpoint holds.

    Args:
        content: of the first process, in tensors and plain values.
    """
    path = folder / f"step_{step:08d}.pt"
    on_rank0(lambda: _write_file(path, content))
    on_rank0(lambda: _clear(path))


def load_newest(folder: Path, signature: str, like: TensorLayout) -> TrainingState | None:
    """The newest checkpoint that all processes find whole; the others are named in the log.

    Args:
        folder: where the run's checkpoints are.
        signature: the run's.
        like: how this process holds the tensors.

    Raises:
        ValueError: if it is of another run.
    """
    return _newest_whole(
        folder, signature, lambda path: read(path, like), lambda state: state.plain["signature"]
    )


def load_newest_file(
    folder: Path, signature: str, signature_of: Callable[[dict[str, Any]], str]
) -> dict[str, Any] | None:
    """As ``newest``, of what ``save_file`` has written; tensors are on the CPU.

    Args:
        signature_of: what a checkpoint holds → the signature of the run that it is of.
    """
    return _newest_whole(folder, signature, _read_file, signature_of)


def _newest_whole(
    folder: Path, signature: str, load: Callable[[Path], T], signature_of: Callable[[T], str]
) -> T | None:
    for name in on_rank0(lambda: [path.name for path in _newest_first(folder)]):
        path = folder / name
        state, of, damage = None, None, None
        try:
            state = load(path)
            of = signature_of(state)
        except Exception as error:
            damage = one_line(error)
        if found := [reason for reason in all_gather_objects(damage) if reason is not None]:
            log.warning("%s is damaged (%s); trying the one before", path, found[0])
            continue
        assert state is not None
        if of != signature:
            raise ValueError(
                f"{path} is a checkpoint of run {of}, not of {signature}; "
                "move it away to start this run from the beginning"
            )
        return state
    return None


def read(path: Path, like: TensorLayout = lambda name: None) -> TrainingState:
    """What is in a checkpoint of either kind; tensors are on the CPU but for those in parts."""
    if path.is_dir():
        return sharded_checkpoint.read(path, like)
    content = _read_file(path)
    return TrainingState(tensors=content["tensors"], plain=content["plain"])


def _read_file(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch writes checksums, and does not look at them
        if (wrong := archive.testzip()) is not None:
            raise ValueError(f"{wrong} in it is not as it was written")
    return torch.load(path, map_location="cpu", weights_only=True)


def _write_file(path: Path, content: Mapping[str, Any]) -> None:
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened here, as torch does not say why a write to a file of its own has failed.
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(content), file)


def _write_folder(path: Path, state: TrainingState) -> None:
    temporary = path.with_name(on_rank0(lambda: f".{path.name}.{os.getpid()}.tmp"))
    try:
        on_rank0(lambda: _begin_folder(path, temporary))
        try:
            sharded_checkpoint.write_shard(temporary, state)
        except OSError as error:  # a RuntimeError here would be the loss of another process
            raise _explanation(path, error) from error
        on_rank0(lambda: _finish_folder(path, temporary, state))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _begin_folder(path: Path, temporary: Path) -> None:
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()


def _finish_folder(path: Path, temporary: Path, state: TrainingState) -> None:
    with _explained(path):
        sharded_checkpoint.write_plain_values(temporary, state)
        if path.exists():  # damaged, or this step would not have been made again
            shutil.rmtree(path)
        temporary.rename(path)
        sharded_checkpoint.sync_folder(path.parent)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what a write that fails in this block means."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _explanation(path, error) from error


def _explanation(path: Path, error: OSError | RuntimeError) -> OSError:
    reason = sharded_checkpoint.underlying(error)
    number = reason.errno if isinstance(reason, OSError) else None
    why = one_line(error) if number is None else os.strerror(number)
    there = next(folder for folder in path.parents if folder.exists())
    message = (
        f"the checkpoint {path.name} could not be written to {path.parent}: {why} "
        f"({shutil.disk_usage(there).free / 2**20:,.1f} MiB are free there); the checkpoints "
        "before it are whole, and a new submission goes on from the newest"
    )
    return OSError(message) if number is None else OSError(number, message)


def _clear(written: Path) -> None:
    """Delete all but the newest up to the one just written; later ones have been passed over."""
    earlier = [path for path in _newest_first(written.parent) if path.stem < written.stem]
    kept = {written, *earlier[: KEPT - 1]}
    for old in _newest_first(written.parent):
        if old in kept:
            continue
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step_*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.stem, reverse=True)
