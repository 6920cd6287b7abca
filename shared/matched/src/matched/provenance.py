"""Provenance of a run: commit, uncommitted changes, code snapshot, versions and hardware."""

from __future__ import annotations

import logging
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

from matched import machine
from matched.files import atomic_write, write_json

log = logging.getLogger("matched")
MAX_NEW_BYTES = 10_000_000
"""Total size of the untracked files to keep; whatever exceeds it is data and only named."""
DIFF = (
    "-c", "diff.suppressBlankEmpty=false", "-c", "diff.relative=false",
    "diff", "--no-ext-diff", "--no-textconv", "--no-color",
    "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--unified=3",
    "--inter-hunk-context=0", "-O/dev/null", "--binary", "HEAD",
)  # fmt: skip
"""A diff that ``git apply`` takes, whatever the user's settings for diffs to read are."""
GIT_VARIABLES = {
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
}  # fmt: skip
"""Variables that lead git to another repository, as in a hook, or change what it prints."""


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
    commit, problem = _head(root)
    if problem and snapshot:
        raise ValueError(
            f"a snapshot copies the files that git tracks, but {problem}; or submit without "
            "SNAPSHOT=1"
        )
    code: dict[str, Any] = {"commit": commit, "submission": str(target)}
    if problem:
        code["commit_problem"] = problem
        if (root / ".git").exists():
            log.warning("the submitted code is not recorded: %s", problem)
    if commit is not None:
        listed = _git(root, "ls-files", "-z", "--others", "--exclude-standard") or ""
        untracked = [name for name in listed.split("\0") if (root / name).is_file()]
        kept = _smallest(root, untracked)
        diff = _diff_of_everything(root, kept, target)
        code["uncommitted"] = None if diff is None else bool(diff)
        if diff is None:
            code["commit_problem"] = "git diff failed, so uncommitted changes are not recorded"
            log.warning("%s in %s", code["commit_problem"], root)
        code["left_out"] = sorted(set(untracked) - set(kept))
        if diff:
            with atomic_write(target / "uncommitted.diff") as temporary:
                temporary.write_bytes(diff.encode(errors="surrogateescape"))
        if snapshot:
            code["snapshot"] = str(_copy_files(root, kept, target / "code"))
    write_json(target / "code.json", code)
    return code


def _head(root: Path) -> tuple[str | None, str]:
    """Return the commit of ``root``, or None and why there is none and what to do, in one line."""
    process = _run_git(root, "rev-parse", "--git-dir")
    if process is None:
        return None, "git is not installed; install it"
    if process.returncode:
        words = process.stderr.decode(errors="replace").strip().splitlines() or ["it failed"]
        # A warning may precede the reason.
        reason = next((line for line in words if line.startswith("fatal: ")), words[0])
        problem = f"git cannot use {root} ({reason.removeprefix('fatal: ')})"
        if "dubious ownership" in reason:
            # git names the folder, which may be a parent of ``root``, in its last line.
            return None, f"{problem}; if you trust its owner, run `{words[-1].strip()}`"
        return None, f"{problem}; use a clone of the repository"
    head = (_git(root, "rev-parse", "--quiet", "--verify", "HEAD") or "").strip()
    return (head, "") if head else (None, f"{root} has no commit; make one")


def _smallest(root: Path, names: Sequence[str]) -> list[str]:
    """Return the smallest files, as many as fit into ``MAX_NEW_BYTES`` together."""
    sizes = {name: (root / name).lstat().st_size for name in names}
    by_size = sorted(names, key=lambda name: sizes[name])
    totals = accumulate(sizes[name] for name in by_size)
    return [name for name, total in zip(by_size, totals, strict=True) if total <= MAX_NEW_BYTES]


def _diff_of_everything(root: Path, untracked: Sequence[str], folder: Path) -> str | None:
    """Return the diff from HEAD to the working tree, with the content of the untracked files.

    None if git fails, as where a filter of the repository (git-lfs) is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index"
    path = _git(root, "rev-parse", "--git-path", "index")
    users_index = root / path.strip() if path else None
    if users_index is not None and users_index.exists():
        # Never change the user's own index. With a later time, git would take files for unchanged
        # that were edited in the second in which the index was written.
        shutil.copy2(users_index, index)
    if untracked:
        names = "\0".join(untracked)  # on stdin: there may be too many for the command line
        options = ("--pathspec-from-file=-", "--pathspec-file-nul")
        _git(root, "add", "--intent-to-add", *options, index=index, stdin=names)
    diff = _git(root, *DIFF, index=index)
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


def job_python_path(
    code: Mapping[str, Any], root: Path, recipe_folders: Sequence[Path] = ()
) -> str | None:
    """Return the PYTHONPATH for jobs; None to keep that of the environment.

    Args:
        code: the record of ``record_submission``; if it names a snapshot of ``root``, folders
            below ``root`` are replaced by their copies.
        recipe_folders: folders from which a user's own recipe and its tasks are imported.
    """
    if "snapshot" not in code and not recipe_folders:
        return None
    environment = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # Keep what is on the path already.
    inherited = [Path(entry).absolute() for entry in environment if entry]
    paths = [*recipe_folders, *inherited]
    if "snapshot" in code:
        snapshot = Path(code["snapshot"])
        sources = [*sorted(snapshot.glob("shared/*/src")), *sorted(snapshot.glob("packages/*/src"))]
        first, last = (
            [snapshot / path.relative_to(root) if path.is_relative_to(root) else path for path in p]
            for p in (recipe_folders, inherited)
        )
        paths = [*first, *sources, *last]
    return os.pathsep.join(map(str, paths))


def environment(code: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of environment.json: versions, code and hardware of this process.

    Args:
        code: the record of ``record_submission``. It becomes "submitted"; "commit" is that of the
            code which actually runs.
    """
    import torch

    return {
        "python": sys.version.split()[0],
        "packages": _installed_packages(),
        **_running_commit(code),
        "submitted": dict(code),
        "source": str(Path(__file__).parent),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": machine.cpu_name(),
        "cores": machine.usable_cores(),
        "threads": torch.get_num_threads(),
        "gpus": _gpu_names(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def hardware() -> str:
    """Return the name of what this process computes on: its GPUs, or without one its CPU.

    The number of GPUs is left out, because a run's result does not depend on it.
    """
    return ", ".join(dict.fromkeys(_gpu_names())) or machine.cpu_name()


def _gpu_names() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _installed_packages() -> dict[str, str]:
    """Return name → version; a folder whose metadata was lost or cut off has none."""
    found: dict[str, str] = {}
    for distribution in distributions():
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        # distribution.metadata also parses the README below the header: five times as slow.
        lines = text.partition("\n\n")[0].splitlines()
        header = dict(line.split(": ", 1) for line in lines if ": " in line)
        if "Name" in header and "Version" in header:
            # The first on the path is the one that is imported.
            found.setdefault(header["Name"], header["Version"])
    return dict(sorted(found.items()))


def _running_commit(code: Mapping[str, Any]) -> dict[str, Any]:
    """Return the commit of the code that runs, or None and the reason."""
    if "snapshot" in code:
        return {"commit": code.get("commit")}
    found = commit()
    if found is not None:
        return {"commit": found}
    return {"commit": None, "commit_problem": _head(Path(__file__).parent)[1]}


def commit() -> str | None:
    """Return the commit of this code, with "-dirty" if it is changed; None without a repository."""
    description = _git(Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40")
    return description and description.strip()


def _git(folder: Path, *arguments: str, index: Path | None = None, stdin: str = "") -> str | None:
    """Return the output of a git command; None if git is not installed or fails."""
    process = _run_git(folder, *arguments, index=index, stdin=stdin)
    if process is None or process.returncode:
        return None
    return process.stdout.decode(errors="surrogateescape")


def _run_git(
    folder: Path, *arguments: str, index: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[bytes] | None:
    """Run a git command; return None if git is not installed."""
    if shutil.which("git") is None:
        return None
    variables = {name: os.environ[name] for name in os.environ if name not in GIT_VARIABLES}
    if index is not None:
        variables["GIT_INDEX_FILE"] = str(index)
    return subprocess.run(
        ["git", *arguments],
        input=stdin.encode(errors="surrogateescape"),
        capture_output=True,
        cwd=folder,
        env={**variables, "LC_ALL": "C"},  # its messages are read here
    )
