"""Checkpoints: atomic writes, the last two kept, damaged ones skipped.

A single process, or several with equal copies of the model (DDP), write one file,
step_00001000.pt; several with sharded models (FSDP2) write a folder, step_00001000. Any number of
processes can read either. No generator state is saved: all randomness is seeded by address, see
``seeding``.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from matched.errors import one_line
from matched.files import atomic_write
from matched.training import released_weights, sharded_checkpoint
from matched.training.artifacts import mismatch_summary, state_dict_mismatches
from matched.training.checksums import verify_checksums
from matched.training.distributed import all_gather_objects, on_rank0, raise_on_all_ranks
from matched.training.training_state import TensorLayout, TrainingState

T = TypeVar("T")
log = logging.getLogger("matched")
KEEP = 2
"""Number of checkpoints kept."""
NAME = re.compile(r"step_\d{8}(\.pt)?")


def save(folder: Path, step: int, state: TrainingState, *, sharded: bool) -> None:
    """Write the checkpoint of ``step`` and delete old ones; all processes call it.

    Raises:
        OSError: on all processes, if it could not be written; earlier checkpoints are untouched.
    """
    if not sharded:
        save_file(folder, step, {"tensors": state.tensors, "plain": state.plain})
        return
    path = folder / f"step_{step:08d}"
    _write_folder(path, state)
    on_rank0(lambda: _delete_old(path))


class BackgroundWriter:
    """Writer of sharded checkpoints in a thread, from a copy of the state in memory.

    Training continues while a checkpoint is written. Its folder has its final name once all
    processes have written their parts, as without the thread. All processes create it and call its
    methods together.

    Args:
        check_ownership: called before the folder gets its final name, on rank 0.
    """

    def __init__(self, check_ownership: Callable[[], None]) -> None:
        self.check_ownership = check_ownership
        # A separate group: the thread's collectives do not interleave with those of training.
        self.group = dist.new_group(backend="gloo")
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def save(self, folder: Path, step: int, state: TrainingState) -> None:
        """Copy the state, and start to write the checkpoint of ``step``.

        Raises:
            OSError: on all processes, if the previous checkpoint could not be written.
        """
        self.finish()
        path = folder / f"step_{step:08d}"
        temporary = _temporary_folder(path)
        on_rank0(lambda: _create_temporary_folder(path, temporary))
        copied = TrainingState(
            tensors={n: t.detach().to("cpu", copy=True) for n, t in state.tensors.items()},
            plain=copy.deepcopy(state.plain),
        )
        self.thread = threading.Thread(target=self._write, args=(path, temporary, copied))
        self.thread.start()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if there is one.

        Raises:
            OSError: on all processes, if it could not be written; earlier ones are untouched.
        """
        if self.thread is None:
            return
        self.join()
        error, self.thread, self.error = self.error, None, None
        with raise_on_all_ranks():
            if error is not None:
                raise error

    def join(self) -> None:
        """Wait for the thread alone, after a failure of this process that others may not share."""
        if self.thread is not None:
            self.thread.join()

    def _write(self, path: Path, temporary: Path, state: TrainingState) -> None:
        try:
            _write_shard(path, temporary, state, self.group)
            if dist.get_rank() == 0:
                self.check_ownership()
                _complete_folder(path, temporary, state)
                _delete_old(path)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self.error = error


def save_file(folder: Path, step: int, content: Mapping[str, Any]) -> None:
    """Like ``save``, for trainers with their own checkpoint format.

    Args:
        content: tensors and plain values; only those of rank 0 are written.
    """
    path = folder / f"step_{step:08d}.pt"
    on_rank0(lambda: _write_file(path, content))
    on_rank0(lambda: _delete_old(path))


def load_newest(folder: Path, signature: str, layout: TensorLayout) -> TrainingState | None:
    """Load the newest checkpoint that is undamaged on all processes; None if there is none.

    Damaged ones are skipped with a warning in the log.

    Args:
        folder: of the run's checkpoints.
        signature: of the run.
        layout: how this process shards the tensors.

    Raises:
        ValueError: if the checkpoint belongs to another run.
    """
    return _load_newest(
        folder, signature, lambda path: read(path, layout), lambda state: state.plain["signature"]
    )


def load_newest_file(
    folder: Path, signature: str, signature_of: Callable[[dict[str, Any]], str]
) -> dict[str, Any] | None:
    """Like ``load_newest``, for checkpoints written by ``save_file``; tensors are on the CPU.

    Args:
        signature_of: content of a checkpoint → signature of its run.
    """
    return _load_newest(folder, signature, _read_file, signature_of)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Load the weights that a run of ``fit`` evaluated last, or those that a run has imported.

    Of a training with an EMA, these are the EMA's.

    Args:
        model: of the run, before it is sharded.
        directory: of the run.

    Raises:
        ValueError: if the run has no intact checkpoint, or its model has other weights.
    """
    weights = released_weights.read(directory)
    if weights is None:
        state = load_newest(directory / "checkpoints", directory.name, lambda name: None)
        if state is None:
            raise ValueError(f"{directory} has no intact checkpoint; run it again")
        prefix = "ema." if any(name.startswith("ema.") for name in state.tensors) else "model."
        weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.tensors.items()
            if name.startswith(prefix)
        }
    if mismatches := state_dict_mismatches(model.state_dict(), weights):
        raise ValueError(
            f"the checkpoint of {directory} does not fit: {mismatch_summary(mismatches)}"
        )
    model.load_state_dict(weights)


def _load_newest(
    folder: Path, signature: str, load: Callable[[Path], T], signature_of: Callable[[T], str]
) -> T | None:
    for name in on_rank0(lambda: [path.name for path in _newest_first(folder)]):
        path = folder / name
        content, found_signature, damage = None, None, None
        try:
            content = load(path)
            found_signature = signature_of(content)
        except Exception as error:
            damage = one_line(error)
        if damages := [reason for reason in all_gather_objects(damage) if reason is not None]:
            log.warning("%s is damaged (%s); trying the previous one", path, damages[0])
            continue
        assert content is not None
        if found_signature != signature:
            raise ValueError(
                f"{path} is a checkpoint of run {found_signature}, not of {signature}; "
                "move it away to start this run from the beginning"
            )
        return content
    return None


def read(path: Path, layout: TensorLayout = lambda name: None) -> TrainingState:
    """Read a checkpoint file or folder; tensors are on the CPU except those sharded by ``layout``.

    Raises:
        Exception: any error of torch or the file system, if anything is missing or damaged.
    """
    if path.is_dir():
        return sharded_checkpoint.read(path, layout)
    content = _read_file(path)
    return TrainingState(tensors=content["tensors"], plain=content["plain"])


def _read_file(path: Path) -> dict[str, Any]:
    verify_checksums(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _write_file(path: Path, content: Mapping[str, Any]) -> None:
    with _explain_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Given a path, torch would open the file itself and hide the reason of a failed write.
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(content), file)


def _write_folder(path: Path, state: TrainingState) -> None:
    temporary = _temporary_folder(path)
    try:
        on_rank0(lambda: _create_temporary_folder(path, temporary))
        _write_shard(path, temporary, state)
        on_rank0(lambda: _complete_folder(path, temporary, state))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary_folder(path: Path) -> Path:
    return path.with_name(on_rank0(lambda: f".{path.name}.{os.getpid()}.tmp"))


def _write_shard(
    path: Path, temporary: Path, state: TrainingState, group: dist.ProcessGroup | None = None
) -> None:
    try:
        sharded_checkpoint.write_shard(temporary, state, group)
    except OSError as error:  # not RuntimeError, which is the loss of another process
        raise _write_error(path, error) from error


def _create_temporary_folder(path: Path, temporary: Path) -> None:
    with _explain_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()


def _complete_folder(path: Path, temporary: Path, state: TrainingState) -> None:
    with _explain_write_error(path):
        sharded_checkpoint.write_plain_values(temporary, state)
        if path.exists():  # damaged: otherwise this step would not have been computed again
            shutil.rmtree(path)
        temporary.rename(path)
        sharded_checkpoint.sync_folder(path.parent)


@contextmanager
def _explain_write_error(path: Path) -> Iterator[None]:
    """Raise an error of the block as an OSError that names the checkpoint and the free space."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError | RuntimeError) -> OSError:
    cause = sharded_checkpoint.root_cause(error)
    number = cause.errno if isinstance(cause, OSError) else None
    reason = one_line(error) if number is None else os.strerror(number)
    existing = next(folder for folder in path.parents if folder.exists())
    message = (
        f"the checkpoint {path.name} could not be written to {path.parent}: {reason} "
        f"({shutil.disk_usage(existing).free / 2**20:,.1f} MiB free); earlier checkpoints are "
        "intact, and a new submission resumes from the newest"
    )
    return OSError(message) if number is None else OSError(number, message)


def _delete_old(written: Path) -> None:
    """Keep this checkpoint and the previous one; later steps can only be damaged leftovers."""
    earlier = [path for path in _newest_first(written.parent) if path.stem < written.stem]
    kept = {written, *earlier[: KEEP - 1]}
    for path in _newest_first(written.parent):
        if path in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("step_*") if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: path.stem, reverse=True)
