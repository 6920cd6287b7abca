"""Identity of processes beyond host name and process id, which containers and time use again.

A process is identified by the boot of its kernel, its PID namespace, its id there and its start
time. What cannot be seen from here (another kernel or container, a /proc with hidepid) is unknown,
neither running nor dead: its heartbeat decides, and it is never sent a signal.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def namespace() -> str:
    """Return an id of the running kernel and the PID namespace of this process, or ""."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}.{os.readlink(PROC / 'self/ns/pid').strip('pid:[]')}"
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None if it cannot be seen."""
    stat = _stat(pid)
    return None if stat is None else stat[1]


def identity(pid: int) -> str:
    """Return what distinguishes a process from all others that have its id, or "" if unknown.

    The start time of a process that is gone already is 0.
    """
    where = namespace()
    return where and f"{where}.{start_time(pid) or 0}"


def is_running(pid: int, process: str) -> bool | None:
    """Return whether the process of this id and ``identity`` runs; None if that cannot be seen."""
    where, _, started = process.rpartition(".")
    if not where or where != namespace():
        return None
    stat = _stat(pid)
    if stat is not None:
        return stat[1] == int(started) and stat[0] not in "ZX"  # not a zombie
    try:
        os.kill(pid, 0)  # no signal, only the permission to send one
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and hidepid hides it
    return None


def _stat(pid: int) -> tuple[str, int] | None:
    """Return state letter and start time of a process; None if it is gone or hidden."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name, in parentheses, is cut to 15 bytes, perhaps within a character.
    fields = stat.rpartition(b")")[2].decode().split()
    return fields[0], int(fields[19])
