"""Where data comes from: packages register sources by name, site.toml says where they lie.

A package registers its sources as entry points of the group ``matched.data``; a config names the
ones it reads in its field ``data`` (one name or a tuple of names), never by path, so that a run is
the same run wherever its data lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set or file that runs read.

    Attributes:
        title: what the table's caption calls it.
        check: raises ValueError, saying what layout is expected, unless the given path holds
            the data; None for data that comes with an installed package.
    """

    title: str
    check: Callable[[Path], None] | None = None

    @property
    def embedded(self) -> bool:
        return self.check is None


GROUP = "matched.data"


@cache
def registered() -> dict[str, Any]:
    """Name → entry point of every registered source, unloaded: finding them imports nothing."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def source(name: str) -> DataSource:
    """The source registered as ``name``.

    Raises:
        ValueError: for an unknown name.
    """
    points = registered()
    if name not in points:
        raise ValueError(
            f"unknown data source {name!r}; registered are {', '.join(points) or 'none'}. "
            "Is the package that brings it installed? `make setup` installs all of them"
        )
    return points[name].load()


def names_read(config: Any) -> tuple[str, ...]:
    """The data sources that a config names in its field ``data``."""
    data = getattr(config, "data", ())
    return (data,) if isinstance(data, str) else tuple(data)


def resolve(names: tuple[str, ...], paths: Mapping[str, Path], site_file: Path) -> dict[str, Path]:
    """Where each of ``names`` lies, each path checked; embedded sources have none.

    Raises:
        ValueError: for paths that site.toml lacks or that do not hold the data, all in one line.
    """
    found, lacking, wrong = {}, {}, []
    for name in names:
        known = source(name)
        if known.check is None:
            continue
        if name not in paths:
            lacking[name] = known.title
            continue
        try:
            known.check(paths[name])
        except ValueError as error:
            wrong.append(f"[data] {name} in {site_file}: {error}")
        found[name] = paths[name]
    if lacking:
        keys = ", ".join(f"`{name}`" for name in lacking)
        wrong.insert(
            0,
            f"no path for {', '.join(lacking.values())}: set {keys} under [data] in {site_file} "
            "(site.example.toml shows how)",
        )
    if wrong:
        raise ValueError("; ".join(wrong))
    return found
