"""File tasks: many independent files made by all processes, resumable file by file.

Used to encode data sets, sample images and extract features. The content of a file depends on its
name alone, not on the number of processes or on interruptions.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from matched import signals
from matched.files import CHECKSUM_SUFFIX, atomic_write, write_text
from matched.task import Context
from matched.training.distributed import all_gather_objects, on_rank0, raise_on_all_ranks

log = logging.getLogger("matched")
BLOCK = 1 << 20
"""Bytes read at a time."""


def make_files(
    context: Context, folder: Path, names: Sequence[str], make: Callable[[str, Path], None]
) -> dict[str, str]:
    """Make every file of ``names`` that is missing or damaged; all processes of the run call it.

    A file is undamaged if it matches the checksum in the file next to it. The processes proceed in
    rounds of one file each, and stop before a round if one of them has received a stop signal.

    Args:
        folder: of the files; created if missing.
        make: (name, path to write to) → None; an error is raised on all processes.

    Returns:
        Name → SHA-256 of each file, in the order of ``names``.

    Raises:
        Interrupted: if a process has received a stop signal; finished files are kept.
        LeaseLostError: if another process has taken this run over.
    """
    on_rank0(lambda: _prepare(folder))
    checksums = verified_checksums(context, folder, names)
    missing = [name for name in names if checksums[name] is None]
    existing = len(names) - len(missing)
    if context.rank == 0 and names:
        log.info("%s: %d of %d files exist", folder.name, existing, len(names))
    world_size = context.world_size
    for start in range(0, len(missing), world_size):
        if any(all_gather_objects(signals.stop_signal() is not None)):
            raise signals.Interrupted
        on_rank0(partial(context.write_progress, existing + start, len(names)))
        own = missing[start + context.rank : start + context.rank + 1]
        with raise_on_all_ranks():
            made = {name: _make_file(folder / name, make) for name in own}
        for made_by_rank in all_gather_objects(made):
            checksums.update(made_by_rank)
    on_rank0(lambda: context.write_progress(len(names), len(names)))
    return {name: str(checksums[name]) for name in names}


def verified_checksums(
    context: Context, folder: Path, names: Sequence[str]
) -> dict[str, str | None]:
    """Return name → SHA-256, None for missing or damaged files; all processes share the reading."""
    own = names[context.rank :: context.world_size]
    with raise_on_all_ranks():
        checksums = {name: _verified_checksum(folder / name) for name in own}
    merged = {name: value for part in all_gather_objects(checksums) for name, value in part.items()}
    return {name: merged[name] for name in names}


def _prepare(folder: Path) -> None:
    """Create the folder, and delete temporary files of killed processes."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _make_file(path: Path, make: Callable[[str, Path], None]) -> str:
    with atomic_write(path) as temporary:
        make(path.name, temporary)
        checksum = digest(temporary)
        # Before the rename: a file with its final name always has its checksum.
        write_text(_checksum_file(path), checksum + "\n")
    return checksum


def _verified_checksum(path: Path) -> str | None:
    """Return the checksum of a file if it is right, else None, with a warning if it is wrong."""
    try:
        expected = _checksum_file(path).read_text(encoding="ascii").strip()
        actual = digest(path)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    if actual != expected:
        log.warning("%s is damaged (its checksum is wrong) and will be recreated", path)
        return None
    return actual


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUM_SUFFIX)


def remove_stale_files(context: Context, paths: Iterable[Path]) -> None:
    """Delete files and folders that are out of date or no longer needed; call on rank 0 only.

    Raises:
        LeaseLostError: if another process has taken over the run; checked before each deletion.
    """
    for path in paths:
        context.check_ownership()
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value.update(block)
    return value.hexdigest()
