"""Provenance of a run: commit, uncommitted changes, code snapshot, versions and hardware."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from itertools import accumulate
from pathlib import Path
from typing import Any

from matched.files import atomic_write, write_json

MAX_NEW_BYTES = 10_000_000
"""Total size of the untracked files to keep; whatever exceeds it is data and only named."""


def record_submission(folder: Path, root: Path, *, snapshot: bool) -> dict[str, Any]:
    """Record which code is submitted from ``root``, in a new folder below ``folder``.

    The new folder holds code.json, uncommitted.diff if there are uncommitted changes, and for a
    snapshot code/: the tracked files and the untracked ones that git does not ignore, as they are.

    Returns:
        The content of code.json, which jobs carry with them.

    Raises:
        ValueError: if a snapshot is asked for without git or outside of a repository.
    """
    target = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    commit = (_git(root, "rev-parse", "HEAD") or "").strip() or None
    if commit is None and snapshot:
        raise ValueError(
            f"a snapshot copies the files that git tracks, but {root} is not a git repository with "
            "a commit, or git is not installed; submit without SNAPSHOT=1"
        )
    code: dict[str, Any] = {"commit": commit, "submission": str(target)}
    if commit is not None:
        listed = _git(root, "ls-files", "-z", "--others", "--exclude-standard") or ""
        untracked = [name for name in listed.split("\0") if (root / name).is_file()]
        kept = _smallest(root, untracked)
        diff = _diff_of_everything(root, kept, target)
        code["uncommitted"] = bool(diff)
        code["left_out"] = sorted(set(untracked) - set(kept))
        if diff:
            with atomic_write(target / "uncommitted.diff") as temporary:
                temporary.write_bytes(diff.encode(errors="surrogateescape"))
        if snapshot:
            code["snapshot"] = str(_copy_files(root, kept, target / "code"))
    write_json(target / "code.json", code)
    return code


def _smallest(root: Path, names: Sequence[str]) -> list[str]:
    """Return the smallest files, as many as fit into ``MAX_NEW_BYTES`` together."""
    sizes = {name: (root / name).lstat().st_size for name in names}
    by_size = sorted(names, key=lambda name: sizes[name])
    totals = accumulate(sizes[name] for name in by_size)
    return [name for name, total in zip(by_size, totals, strict=True) if total <= MAX_NEW_BYTES]


def _diff_of_everything(root: Path, untracked: Sequence[str], folder: Path) -> str:
    """Return the diff from HEAD to the working tree, with the content of the untracked files."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index"
    users_index = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "index")
    if users_index and Path(users_index.strip()).exists():
        shutil.copy(users_index.strip(), index)  # never change the user's own index
    if untracked:
        names = "\0".join(untracked)  # on stdin: there may be too many for the command line
        options = ("--pathspec-from-file=-", "--pathspec-file-nul")
        _git(root, "add", "--intent-to-add", *options, index=index, stdin=names)
    diff = _git(root, "diff", "--binary", "HEAD", index=index) or ""
    index.unlink(missing_ok=True)
    return diff


def _copy_files(root: Path, untracked: Sequence[str], target: Path) -> Path:
    tracked = (_git(root, "ls-files", "-z") or "").split("\0")
    for name in sorted({*tracked, *untracked} - {""}):
        source, copy = root / name, target / name
        if source.is_file():  # not deleted, and not a submodule
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    return target


def snapshot_python_path(code: Mapping[str, Any], root: Path) -> str | None:
    """Return the PYTHONPATH for jobs that run from the snapshot of ``root``; None without one."""
    if "snapshot" not in code:
        return None
    snapshot = Path(code["snapshot"])
    sources = [*sorted(snapshot.glob("shared/*/src")), *sorted(snapshot.glob("packages/*/src"))]
    # Keep what is on the path already; entries below ``root`` are replaced by their copies.
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        path = Path(entry).absolute()
        sources.append(snapshot / path.relative_to(root) if path.is_relative_to(root) else path)
    return os.pathsep.join(map(str, sources))


def environment(code: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of environment.json: versions, code and hardware of this process.

    Args:
        code: the record of ``record_submission``. It becomes "submitted"; "commit" is that of the
            code which actually runs.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": sys.version.split()[0],
        "packages": {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name)},
        "commit": code.get("commit") if "snapshot" in code else commit(),
        "submitted": dict(code),
        "source": str(Path(__file__).parent),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
        "cuda": torch.version.cuda if cuda else None,
    }


def commit() -> str | None:
    """Return the commit of this code, with "-dirty" if it is changed; None without a repository."""
    description = _git(Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40")
    return description and description.strip()


def _git(folder: Path, *arguments: str, index: Path | None = None, stdin: str = "") -> str | None:
    """Return the output of a git command; None if git is not installed or fails."""
    if shutil.which("git") is None:
        return None
    variables = {} if index is None else {"GIT_INDEX_FILE": str(index)}
    process = subprocess.run(
        ["git", *arguments],
        input=stdin.encode(errors="surrogateescape"),
        capture_output=True,
        cwd=folder,
        env={**os.environ, **variables},
    )
    return process.stdout.decode(errors="surrogateescape") if process.returncode == 0 else None


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
