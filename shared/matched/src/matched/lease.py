"""One owner per run directory: a lease that outlives no owner and trusts no clock.

The owners of a folder are numbered files, owners/000007.json being the seventh; the highest
number owns the folder. Whoever wants it creates the next number, which the file system lets only
one do (O_EXCL, atomic on NFS from version 3 on). An owner touches its file every ``BEAT`` seconds.
It is taken to be dead when its process is gone (where that can be seen: same kernel), or when the
touched time has not *changed* for ``PATIENCE`` seconds of the observer's own clock: times of two
hosts are never compared. A time of 0 says that the owner has let go, and takes no space to write
on a full disk. An owner that was only asleep finds a higher number and stops (``confirm``).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from matched.files import DamagedFileError, read_json

FOLDER = "owners"
BEAT = 5.0
PATIENCE = 60.0
POLL = 0.5


class LeaseHeldError(ValueError):
    """Another process is at work on the run; the message names it."""


class LeaseLostError(RuntimeError):
    """This process owned the run, and another has taken it over."""


class Lease:
    """What an owner holds; made by ``acquire``."""

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
        """
        Raises:
            Lost: if another process has taken over.
        """
        newest = _newest(self.path.parent)
        if newest != self.path:
            by = describe(_read(newest)) if newest is not None else "nobody: its files are gone"
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
    job: Mapping[str, Any],
    *,
    patience: float = PATIENCE,
    wait: bool = False,
    pause: Callable[[], None] = lambda: time.sleep(POLL),
) -> Lease:
    """Own ``folder``; an owner that is alive is waited for if it is of the same job.

    Args:
        folder: its ``owners`` folder is made if it is not there.
        job: who asks: "key" (equal for all starts of a job) and whatever else others should know.
        patience: seconds without a beat after which an owner elsewhere is taken to be dead.
        wait: wait for an owner of another job too.
        pause: called between looks; raises if the wait has become pointless.

    Raises:
        Held: if somebody else is at work there.
        OSError: if the folder cannot be written.
    """
    owners = folder / FOLDER
    owners.mkdir(parents=True, exist_ok=True)
    while True:
        newest = _newest(owners)
        if newest is not None and not _free(newest, patience, pause):
            owner = _read(newest)
            if owner and not wait and owner["key"] != job["key"]:
                raise LeaseHeldError(f"{folder} is at work: {describe(owner)}")
            pause()
            continue
        taken = _take(owners, 1 if newest is None else int(newest.stem) + 1, job)
        if taken is not None:
            return Lease(taken)


def owner(folder: Path) -> dict[str, Any] | None:
    """The record of who owns ``folder``, dead or alive; None if nobody does."""
    newest = _newest(folder / FOLDER)
    if newest is None or _released(newest):
        return None
    return _read(newest)


def quiet_for(folder: Path, now: float) -> float:
    """Seconds since the owner's last beat, ``now`` being a time of the same file system."""
    newest = _newest(folder / FOLDER)
    return float("inf") if newest is None else now - _touched(newest)


def describe(owner: Mapping[str, Any]) -> str:
    """ "slurm job 12_3 on host n2 (process 4711)"."""
    if "key" not in owner:
        return "a process that has not said yet who it is"
    return f"{owner['key']}, process {owner['place']['pid']} on host {owner['host']}"


def _newest(owners: Path) -> Path | None:
    try:
        numbered = [name for name in os.listdir(owners) if name[:-5].isdigit()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return owners / max(numbered) if numbered else None


def _read(path: Path) -> dict[str, Any]:
    """The record in ``path``; empty if its writer has come no further, or has been replaced."""
    try:
        return read_json(path, ("key", "host", "place")) or {}
    except DamagedFileError:
        return {}


def _take(owners: Path, number: int, job: Mapping[str, Any]) -> Path | None:
    """Become owner number so-and-so; None if another was faster."""
    path = owners / f"{number:06d}.json"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    record = {**job, "host": socket.gethostname(), "place": _place(os.getpid())}
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError:  # a full disk: nobody can own anything here
        path.unlink(missing_ok=True)
        raise
    # A lower number may have been free because its owner had been replaced and cleared away.
    if _newest(owners) != path:
        path.unlink(missing_ok=True)
        return None
    for other in owners.glob("*.json"):
        if other.stem < path.stem:
            other.unlink(missing_ok=True)
    return path


def _free(path: Path, patience: float, pause: Callable[[], None]) -> bool:
    """Whether that owner has let go or is dead; where it cannot be seen, its beat is watched."""
    owner = _read(path)
    if owner and (seen := alive(owner["place"])) is not None:
        return not seen or _released(path)
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
    """When the owner last touched its file; 0 if it has let go, or the file is gone."""
    try:
        with path.open("rb"):  # a network file system looks again when a file is opened
            return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _released(path: Path) -> bool:
    return _touched(path) == 0


def _place(pid: int) -> dict[str, Any]:
    """Where a process is, and which one: numbers are used again, start times are not."""
    return {"kernel": _kernel(), "pid": pid, "started": _started(pid)}


def _kernel() -> str:
    """Names the running kernel and the process namespace: who shares both sees our processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None if it is gone (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def alive(place: Mapping[str, Any]) -> bool | None:
    """Whether that process is still there; None if that cannot be seen from here."""
    if not place["kernel"] or place["kernel"] != _kernel():
        return None
    return place["started"] is not None and _started(place["pid"]) == place["started"]
