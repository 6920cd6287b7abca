"""Which code a run is computed with: the commit, what is not committed, and a copy to run from."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from itertools import accumulate
from pathlib import Path
from typing import Any

from matched.files import atomic_write, write_json

LARGEST = 10_000_000
"""Bytes of all new files that are kept; what is beyond is named: code is never that large."""


def submission(folder: Path, root: Path, *, snapshot: bool) -> dict[str, Any]:
    """Write down which code is submitted from ``root``: what jobs carry with them.

    A folder of its own below ``folder`` gets code.json, uncommitted.diff where something is not
    committed, and, for a snapshot, code/: the files that git tracks, and new ones that it does not
    ignore, as they are now.

    Raises:
        ValueError: for a snapshot without git or outside a repository.
    """
    made = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    commit = (_git(root, "rev-parse", "HEAD") or "").strip() or None
    if commit is None and snapshot:
        raise ValueError(
            f"a snapshot copies the files that git tracks, and {root} is no git repository with "
            "a commit (or there is no git); submit without SNAPSHOT=1"
        )
    code: dict[str, Any] = {"commit": commit, "submission": str(made)}
    if commit is not None:
        new = (_git(root, "ls-files", "-z", "--others", "--exclude-standard") or "").split("\0")
        sizes = {name: (root / name).lstat().st_size for name in new if (root / name).is_file()}
        smallest_first = sorted(sizes, key=lambda name: sizes[name])
        totals = accumulate(sizes[name] for name in smallest_first)
        kept = [n for n, total in zip(smallest_first, totals, strict=True) if total <= LARGEST]
        difference = _difference(root, kept, made)
        code["uncommitted"] = bool(difference)
        code["left_out"] = sorted(set(sizes) - set(kept))
        if difference:
            with atomic_write(made / "uncommitted.diff") as temporary:
                temporary.write_bytes(difference.encode(errors="surrogateescape"))
        if snapshot:
            code["snapshot"] = str(_copy(root, kept, made / "code"))
    write_json(made / "code.json", code)
    return code


def _difference(root: Path, new: list[str], folder: Path) -> str:
    """What a commit of everything would change, new files with their content."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index"
    own = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "index")
    if own and Path(own.strip()).exists():
        shutil.copy(own.strip(), index)  # the user's own index is not to be touched
    if new:
        names = "\0".join(new)  # not as arguments: of those there may be too many
        options = ("--pathspec-from-file=-", "--pathspec-file-nul")
        _git(root, "add", "--intent-to-add", *options, index=index, said=names)
    difference = _git(root, "diff", "--binary", "HEAD", index=index) or ""
    index.unlink(missing_ok=True)
    return difference


def _copy(root: Path, new: list[str], target: Path) -> Path:
    tracked = (_git(root, "ls-files", "-z") or "").split("\0")
    for name in sorted({*tracked, *new} - {""}):
        source, copy = root / name, target / name
        if source.is_file():  # neither deleted nor another repository
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    return target


def path_of(code: Mapping[str, Any], root: Path) -> str | None:
    """PYTHONPATH for jobs that are to run from the snapshot of ``root``; None without one."""
    if "snapshot" not in code:
        return None
    copy = Path(code["snapshot"])
    sources = [*sorted(copy.glob("shared/*/src")), *sorted(copy.glob("packages/*/src"))]
    # What was on the path already is kept, where it lies in the checkout as its copy.
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        path = Path(entry).absolute()
        sources.append(copy / path.relative_to(root) if path.is_relative_to(root) else path)
    return os.pathsep.join(map(str, sources))


def environment(code: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, code and hardware, for environment.json.

    "commit" is of the code that runs, ``code`` what was submitted.
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
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
        "cuda": torch.version.cuda if cuda else None,
    }


def commit() -> str | None:
    """The commit that this code is of, "-dirty" if changed; None without git or repository."""
    found = _git(Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40")
    return found and found.strip()


def _git(where: Path, *arguments: str, index: Path | None = None, said: str = "") -> str | None:
    """What git answers; None if it is not there, or refuses."""
    if shutil.which("git") is None:
        return None
    more = {} if index is None else {"GIT_INDEX_FILE": str(index)}
    answer = subprocess.run(
        ["git", *arguments],
        input=said.encode(errors="surrogateescape"),
        capture_output=True,
        cwd=where,
        env={**os.environ, **more},
    )
    return answer.stdout.decode(errors="surrogateescape") if answer.returncode == 0 else None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
