"""Glob patterns over module paths, as used by `skip`, `only` and `alpha0_at`."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(pattern: str, path: str) -> bool:
    """True if a glob matches a module path or the path of one of its parent modules.

    "encoder", "enc*" and "*.norm1" all match "encoder.layers.0.norm1": naming a module includes
    everything inside it. `*` crosses dots.
    """
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))
