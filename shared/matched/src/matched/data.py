"""Data sources: registered by packages under a name; their paths are in site.toml.

A package registers its sources as entry points of the group ``matched.data``. A config names the
sources it reads in its field ``data`` (one name or a tuple of names) and contains no path, so that
its run has the same signature wherever the data is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set, or a file such as pretrained weights, that runs read.

    Attributes:
        title: its name in the notes of tables.
        check: called with the path from site.toml; raises a ValueError that describes the expected
            layout if the data is not there. None for data that comes with an installed package.
            Every process of a run calls it, so it takes a fraction of a second.
        survey: called after ``check``, before a submission only, because it may list millions of
            files; raises a ValueError if too much is missing, and logs a warning for what does not
            prevent a run.
        package: distribution that has the data of an embedded source, if it is an optional extra,
            as a requirement for pip, such as "sounds==1.2".
        refusal: why no run that reads it works in this environment, and what to do; empty if runs
            do. Every use of the source is refused with it.
    """

    title: str
    check: Callable[[Path], None] | None = None
    survey: Callable[[Path], None] | None = None
    package: str = ""
    refusal: str = ""

    @property
    def embedded(self) -> bool:
        return self.check is None


ENTRY_POINT_GROUP = "matched.data"


@cache
def registered_sources() -> dict[str, Any]:
    """Return name → entry point of every registered source, without importing any."""
    points = sorted(entry_points(group=ENTRY_POINT_GROUP))
    return {point.name: point for point in points}


def load_source(name: str) -> DataSource:
    """Return the source registered as ``name``.

    Raises:
        ValueError: for an unknown name.
    """
    points = registered_sources()
    if name not in points:
        raise ValueError(
            f"unknown data source {name!r}; registered are {', '.join(points) or 'none'}. "
            "Is the package that registers it installed? `make setup` installs all packages"
        )
    source: DataSource = points[name].load()
    return source


def source_names(config: Any) -> tuple[str, ...]:
    """Return the data sources that a config names in its field ``data``."""
    data = getattr(config, "data", ())
    return (data,) if isinstance(data, str) else tuple(data)


def _installed(requirement: str) -> bool:
    try:
        version(requirement.partition("==")[0])
    except PackageNotFoundError:
        return False
    return True


def resolve_paths(
    names: tuple[str, ...], paths: Mapping[str, Path], site_file: Path, *, survey: bool = False
) -> dict[str, Path]:
    """Return the checked path of every source in ``names`` that is not embedded.

    Args:
        names: names of registered sources.
        paths: name → path, from site.toml.
        site_file: path of site.toml, for messages.
        survey: also list the files of each source, as before a submission.

    Raises:
        ValueError: naming all paths that are missing in site.toml or do not contain the data, and
            all optional packages that are not installed, and all refusals.
    """
    resolved, missing_titles, problems = {}, {}, []
    for name in names:
        source = load_source(name)
        if source.refusal:
            problems.append(source.refusal)
            continue
        if source.check is None:
            if source.package and not _installed(source.package):
                problems.append(
                    f"{source.title} needs an optional package: `pip install --no-deps "
                    f"{source.package}`"
                )
            continue
        if name not in paths:
            missing_titles[name] = source.title
            continue
        try:
            source.check(paths[name])
            if survey and source.survey is not None:
                source.survey(paths[name])
        except ValueError as error:
            problems.append(f"[data] {name} in {site_file}: {error}")
        resolved[name] = paths[name]
    if missing_titles:
        keys = ", ".join(f"`{name}`" for name in missing_titles)
        problems.insert(
            0,
            f"no path for {', '.join(missing_titles.values())}: set {keys} under [data] in "
            f"{site_file} (see site.example.toml)",
        )
    if problems:
        raise ValueError("; ".join(problems))
    return resolved
