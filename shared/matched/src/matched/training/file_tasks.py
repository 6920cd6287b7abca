"""Work that is many independent files: spread over the processes, resumed file by file.

Encoding a data set, sampling images and extracting features are of this kind. What a file holds
depends on its name alone, so that neither the number of processes nor an interruption shows.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from matched import signals
from matched.files import CHECKSUM, atomic_write, write_text
from matched.task import Context, write_progress
from matched.training.distributed import all_gather_objects, on_rank0, raise_on_all_ranks

log = logging.getLogger("matched")
BLOCK = 1 << 20


def make_files(
    context: Context, folder: Path, names: Sequence[str], make: Callable[[str, Path], None]
) -> dict[str, str]:
    """Write every file of ``names`` that is not whole; called by all processes of the run.

    A file is whole if its checksum, in a file beside it, is right. Processes go from round to
    round together, one file each, and stop before a round when one of them was asked to.

    Args:
        folder: where the files lie; made if it is not there.
        make: (name, path to write to) → nothing; its error is raised on all processes.

    Returns:
        Name → SHA-256 of each file, in the order of ``names``.

    Raises:
        Interrupted: if a process was asked to stop; what is whole stays.
    """
    on_rank0(lambda: _prepare(folder))
    sums = verified_checksums(context, folder, names)
    missing = [name for name in names if sums[name] is None]
    if context.rank == 0 and names:
        log.info("%s: %d of %d files are there", folder.name, len(names) - len(missing), len(names))
    world_size = context.world_size
    for start in range(0, len(missing), world_size):
        if any(all_gather_objects(signals.stop_signal() is not None)):
            raise signals.Interrupted
        on_rank0(partial(_confirm, context, len(names) - len(missing) + start, len(names)))
        own = missing[start + context.rank : start + context.rank + 1]
        with raise_on_all_ranks():
            made = {name: _make(folder / name, make) for name in own}
        for found in all_gather_objects(made):
            sums.update(found)
    on_rank0(lambda: _confirm(context, len(names), len(names)))
    return {name: str(sums[name]) for name in names}


def verified_checksums(
    context: Context, folder: Path, names: Sequence[str]
) -> dict[str, str | None]:
    """Name → checksum of every file that is whole, else None; each process reads its share."""
    with raise_on_all_ranks():
        own = {name: _whole(folder / name) for name in names[context.rank :: context.world_size]}
    found = {name: value for values in all_gather_objects(own) for name, value in values.items()}
    return {name: found[name] for name in names}


def _confirm(context: Context, done: int, files: int) -> None:
    """See that the run is still this job's, and tell how far it is."""
    context.check_ownership()
    write_progress(context.directory, done, files)


def _prepare(folder: Path) -> None:
    """Make the folder, and delete what a process that was killed had not written to the end."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _make(path: Path, make: Callable[[str, Path], None]) -> str:
    with atomic_write(path) as temporary:
        make(path.name, temporary)
        value = digest(temporary)
        # Before the file has its name: one that has it has its checksum too.
        write_text(_beside(path), value + "\n")
    return value


def _whole(path: Path) -> str | None:
    """The checksum of a file if it is right; a file that it does not fit is told of."""
    try:
        told = _beside(path).read_text(encoding="ascii").strip()
        found = digest(path)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    if found != told:
        log.warning("%s is damaged (its checksum is wrong) and is made anew", path)
        return None
    return found


def _beside(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUM)


def remove_stale_files(paths: Iterable[Path]) -> None:
    """Delete files and folders that are out of date or no longer needed; call on rank 0 only."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value.update(block)
    return value.hexdigest()
