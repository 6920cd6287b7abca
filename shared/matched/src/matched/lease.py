"""Leases: exclusive ownership that expires with its process and needs no synchronized clocks.

The owners of a folder are numbered files: owners/000007.json is the seventh, and the highest number
owns the folder. A process becomes owner by creating the next number with O_EXCL, which succeeds for
one process only (on NFS from version 3 on). It then touches its file every ``BEAT`` seconds.

An owner is dead if its process is gone, where that can be seen (same kernel), or if its file has
not been touched for ``PATIENCE`` seconds of the observer's own clock. Times of two hosts are never
compared. An owner releases the folder by setting the time of its file to 0, which needs no space
on a full disk. A process that resumes after a suspension finds the newer owner in
``check_ownership``, which raises LeaseLostError.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matched import process_identity
from matched.files import read_json
from matched.status import JOB_KEYS, JobRecord

FOLDER = "owners"
BEAT = 5.0
PATIENCE = 60.0
POLL = 0.5


class LeaseHeldError(ValueError):
    """Another process owns the folder; the message names it."""


class LeaseLostError(RuntimeError):
    """This process owned the folder, and another has taken it over."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that owns a folder, as its file records it.

    Attributes:
        host: where the process runs; a Slurm job itself has no host.
        place: the process among those of its host: see ``_place``.
    """

    job: JobRecord
    host: str
    place: Mapping[str, Any]

    def describe(self) -> str:
        """Return "slurm job 12_3, process 4711 on host n2"."""
        process = f"process {self.place['pid']} on host {self.host}"
        job = self.job.job.describe()
        return process if job == process else f"{job}, {process}"


class Lease:
    """The ownership of a folder, renewed by a thread until it is released; see ``acquire``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    def check_ownership(self) -> None:
        """Raise LeaseLostError if another process has taken over."""
        newest = _newest(self.path.parent)
        if newest != self.path:
            owner = None if newest is None else _read(newest)
            by = _describe(owner) if newest is not None else "nobody: its files are gone"
            raise LeaseLostError(
                f"{self.path.parent.parent} was taken over by {by}; this process stops"
            )

    def release(self) -> None:
        self._over.set()
        self._beating.join()
        with suppress(OSError):
            os.utime(self.path, (0, 0))


def acquire(
    folder: Path,
    job: JobRecord,
    *,
    patience: float = PATIENCE,
    wait: bool = False,
    pause: Callable[[], None] = lambda: time.sleep(POLL),
) -> Lease:
    """Acquire the lease of ``folder``; wait while another attempt of the same job holds it.

    Args:
        folder: its subfolder ``owners`` is created if necessary.
        job: the job of this process; all attempts of a requeued job have the same ``job.job``.
        patience: seconds without a beat after which an owner on another host is considered dead.
        wait: wait for owners of other jobs too.
        pause: called between two polls; raises if there is no point in waiting any longer.

    Raises:
        LeaseHeldError: if a process of another job owns the folder.
        OSError: if the folder cannot be written to.
    """
    owners = folder / FOLDER
    owners.mkdir(parents=True, exist_ok=True)
    while True:
        newest = _newest(owners)
        if newest is not None and not _is_free(newest, patience, pause):
            owner = _read(newest)
            if owner is not None and not wait and owner.job.job != job.job:
                raise LeaseHeldError(f"{folder} is in use by {_describe(owner)}")
            pause()
            continue
        taken = _take(owners, 1 if newest is None else int(newest.stem) + 1, job)
        if taken is not None:
            return Lease(taken)


def owner(folder: Path) -> JobRecord | None:
    """Return the job that owns ``folder``, alive or dead; None if there is none or it is unknown.

    An owner is unknown for the moment between the creation of its file and its first line.
    """
    newest = _newest(folder / FOLDER)
    if newest is None or _is_released(newest):
        return None
    found = _read(newest)
    return None if found is None else found.job


def seconds_since_beat(folder: Path, now: float) -> float:
    """Return the age of the owner's last beat, ``now`` being a time of the same file system."""
    newest = _newest(folder / FOLDER)
    return float("inf") if newest is None else now - _touched(newest)


def _describe(owner: Owner | None) -> str:
    return "a process that has not recorded its job yet" if owner is None else owner.describe()


def _newest(owners: Path) -> Path | None:
    try:
        numbered = [name for name in os.listdir(owners) if name[:-5].isdigit()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return owners / max(numbered) if numbered else None


def _read(path: Path) -> Owner | None:
    """Return the owner in ``path``; None if its content is not yet written, or it was replaced."""
    try:
        record = read_json(path, (*JOB_KEYS, "host", "place"))
        if record is None:
            return None
        return Owner(job=JobRecord.from_json(record), host=record["host"], place=record["place"])
    except ValueError:  # a DamagedFileError too
        return None


def _take(owners: Path, number: int, job: JobRecord) -> Path | None:
    """Become owner ``number`` and return its file; None if another process was faster."""
    path = owners / f"{number:06d}.json"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    record = {**job.to_json(), "host": socket.gethostname(), "place": _place(os.getpid())}
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError:  # the disk is full: nobody can own the folder
        path.unlink(missing_ok=True)
        raise
    # A lower number is free again after its owner was replaced and its file deleted.
    if _newest(owners) != path:
        path.unlink(missing_ok=True)
        return None
    for other in owners.glob("*.json"):
        if other.stem < path.stem:
            other.unlink(missing_ok=True)
    return path


def _is_free(path: Path, patience: float, pause: Callable[[], None]) -> bool:
    """True if that owner has released the folder or is dead.

    An owner whose process cannot be seen from here is watched until it beats or patience ends.
    """
    owner = _read(path)
    if owner is not None and (running := alive(owner.place)) is not None:
        return not running or _is_released(path)
    first, since = _touched(path), time.monotonic()
    while True:
        touched = _touched(path)
        if touched == 0:
            return True
        if touched != first or _read(path) != owner:
            return False
        if time.monotonic() - since >= patience:
            return True
        pause()


def _touched(path: Path) -> float:
    """Return when the owner last touched its file; 0 if it was released or deleted."""
    try:
        with path.open("rb"):  # a network file system asks its server when a file is opened
            return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_released(path: Path) -> bool:
    return _touched(path) == 0


def _place(pid: int) -> dict[str, Any]:
    """Return what identifies a process; ids are used again, but not with the same start time."""
    return {"kernel": _kernel(), "pid": pid, "started": process_identity.start_time(pid)}


def _kernel() -> str:
    """Return an id of the running kernel and the process namespace, within which pids are valid."""
    where = process_identity.namespace()
    return where and f"{socket.gethostname()} {where}"


def alive(place: Mapping[str, Any]) -> bool | None:
    """Return whether that process still exists; None if that cannot be seen from here."""
    if not place["kernel"] or place["kernel"] != _kernel():
        return None
    if place["started"] is None:
        return None
    identity = f"{process_identity.namespace()}.{place['started']}"
    return process_identity.is_running(place["pid"], identity)
