"""Checkouts of upstream repositories: location, commit, and uncommitted changes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dyt_upstream import miniature
from dyt_upstream.upstreams import find_upstream


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """State of a checkout.

    Attributes:
        commit: None if the folder is not a git repository.
        changed: files with uncommitted changes.
        warnings: sentences for the table about differences from the recipe's commit.
    """

    path: Path
    commit: str | None
    changed: tuple[str, ...]
    warnings: tuple[str, ...]


def open_checkout(upstream: str, paths: Mapping[str, Path], expected: str) -> Checkout:
    """Return the checkout of an upstream and what differs from the expected commit.

    Args:
        upstream: a key of ``upstreams.UPSTREAMS``.
        paths: path of every data source.
        expected: the commit that the recipe names; "" accepts any.
    """
    if not find_upstream(upstream).repository:
        path = Path(miniature.__file__).parent
        return Checkout(path=path, commit=None, changed=(), warnings=())
    path = paths[f"upstream.{upstream}"]
    commit = _git(path, "rev-parse", "HEAD")
    status = _git(path, "status", "--porcelain", "--untracked-files=no") or ""
    changed = tuple(line[3:] for line in status.splitlines())
    warnings = []
    if commit is None:
        warnings.append(f"{upstream}: the checkout is not a git repository, its commit is unknown")
    elif expected and commit != expected:
        warnings.append(
            f"{upstream}: the checkout is at commit {commit[:12]}, not {expected[:12]} as in the "
            "recipe"
        )
    if changed:
        warnings.append(f"{upstream}: uncommitted changes in {', '.join(changed)}")
    return Checkout(path=path, commit=commit, changed=changed, warnings=tuple(warnings))


def check_checkout(upstream: str, path: Path) -> None:
    """Raise ValueError unless the folder has the training scripts of an upstream."""
    facts = find_upstream(upstream)
    if not path.is_dir():
        raise ValueError(
            f"{path} is not a folder; clone https://github.com/{facts.repository} there"
        )
    for command in facts.scripts:
        words = command.split()
        file = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
        if not (path / file).is_file():
            raise ValueError(
                f"{path} is not a checkout of {facts.repository}: it has no {file}; clone "
                f"https://github.com/{facts.repository} there"
            )


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command in a repository whose root is ``folder``, or None."""
    if not (folder / ".git").exists():  # git would look for a repository above
        return None
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
