"""Cores, memory and GPUs that this process may use: affinity, limits of its cgroups, variables.

Containers and Kubernetes limit a process by quotas of its cgroup, which neither the number of cores
nor the affinity shows. Version 1 and version 2 of cgroups are read.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

PROC = Path("/proc/self")
NO_LIMIT = 1 << 60
"""Version 1 writes a number of this size where there is no limit of memory."""
GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")
"""Index or UUID of a GPU, or of a part of one."""


def usable_cores() -> int:
    """Return the number of whole cores that affinity and CPU quota allow, at least 1."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *(int(quota) for quota in _cpu_quotas())]))


def cpu_name() -> str:
    """Return the processor's name from Linux, or the machine type elsewhere."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory_limit() -> int | None:
    """Return the memory limit of this process's cgroups in bytes; None if there is none."""
    limits = [
        int(text)
        for name in ("memory.max", "memory.limit_in_bytes")
        for folder in _cgroup_folders("memory")
        if (text := _read(folder / name)).isdigit() and int(text) < NO_LIMIT
    ]
    return min(limits, default=None)


def visible_gpus() -> tuple[str, ...] | None:
    """Return the GPUs of CUDA_VISIBLE_DEVICES, by index or UUID; None if it is not set.

    As CUDA does, ignore everything from the first entry on that is neither, such as "-1".
    """
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    entries = (entry.strip() for entry in text.split(","))
    return tuple(takewhile(GPU.fullmatch, entries))


def _cpu_quotas() -> Iterator[float]:
    """Yield the quotas in cores of this process's cgroup and those above it."""
    for folder in _cgroup_folders("cpu"):
        version1 = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        for values in (_read(folder / "cpu.max").split(), version1):
            if len(values) == 2 and all(value.isdigit() for value in values):  # not "max" or "-1"
                yield int(values[0]) / int(values[1])


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of those above it, as far as they are visible.

    A container may see only its own part of the hierarchy, while /proc/self/cgroup has the path on
    the host: then the top of the mount is the cgroup of the container.
    """
    own: dict[str, str] = {}
    for line in _read(PROC / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))  # version 2 has no names: ""
    for line in _read(PROC / "mountinfo").splitlines():
        fields = line.split(" ")  # the source of a mount may be empty
        kind, options = fields[fields.index("-") + 1], fields[-1]
        if kind not in ("cgroup", "cgroup2"):
            continue
        if kind == "cgroup" and controller not in options.split(","):
            continue
        root, mount = Path(fields[3]), Path(fields[4])
        cgroup = Path(own.get("" if kind == "cgroup2" else controller, "/"))
        below = cgroup.relative_to(root) if cgroup.is_relative_to(root) else Path()
        yield from {mount / part for part in (below, *below.parents)}


def _read(path: Path) -> str:
    """Return the text of a file, or "" if there is no such file.

    Paths in it may contain any bytes, as in /proc/self/mountinfo.
    """
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    return ""
