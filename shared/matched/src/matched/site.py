"""What one user's machine and cluster are like: site.toml, checked key by key.

Nothing in it is part of a run's signature.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from matched.data import registered, source

FILE = "site.toml"


@dataclass(frozen=True, kw_only=True)
class Local:
    """[local]: this machine.

    ``workers`` CPU runs go at a time (0: one per core), each with ``threads`` threads; runs that
    ask for GPUs share ``gpus`` of them.
    """

    workers: int = 0
    threads: int = 1
    gpus: int = 0

    def workers_or_cores(self) -> int:
        cores = len(os.sched_getaffinity(0))
        return self.workers or max(1, cores // self.threads)


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """[slurm]: the cluster. Empty strings leave the choice to Slurm.

    ``max_hours`` is the longest job that the partition takes (longer runs are requeued and
    resume), ``grace_seconds`` the time before that limit at which runs are told to save,
    ``parallel`` the most jobs of one submission that run at a time, ``max_array`` the most jobs
    of one array (Slurm's MaxArraySize less one), ``setup`` shell lines before the job starts,
    ``options`` any further sbatch options.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpus_per_node: int = 8
    max_hours: int = 24
    grace_seconds: int = 120
    parallel: int = 64
    max_array: int = 1000
    setup: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """[runs]: where run directories lie and how often they are saved.

    ``checkpoint_steps`` optimiser steps lie between two checkpoints, or ``checkpoint_minutes``
    where those are over first.
    """

    folder: str = "runs"
    checkpoint_steps: int = 500
    checkpoint_minutes: int = 10


@dataclass(frozen=True, kw_only=True)
class Site:
    """The whole of site.toml; ``data`` maps the name of a data source to its path."""

    file: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    local: Local = field(default_factory=Local)
    slurm: Slurm = field(default_factory=Slurm)

    @property
    def runs_folder(self) -> Path:
        return _path(self.file, self.runs.folder)


def _path(file: Path, given: str) -> Path:
    """A path of site.toml: ``~`` is the user's home, and a relative one starts beside the file."""
    return (file.parent / os.path.expanduser(given)).absolute()


def read(file: Path) -> Site:
    """site.toml in ``file``; where there is none, the defaults.

    Raises:
        ValueError: for a key that is unknown or of the wrong type: its line, and what is allowed.
    """
    if not file.exists():
        return Site(file=file)
    text = file.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: {error}") from None
    sections = {"runs": Runs, "local": Local, "slurm": Slurm}
    _known(file, text, "", content, ["data", *sections])
    for name, section in content.items():
        if not isinstance(section, dict):
            raise ValueError(f"{_place(file, text, '', name)}: {name} must be a section, [{name}]")
    data = content.get("data", {})
    if data:
        _known(file, text, "data", data, [n for n in registered() if not source(n).embedded])
    for key, path in data.items():
        _typed(file, text, "data", key, path, str)
    return Site(
        file=file,
        data={key: _path(file, path) for key, path in data.items()},
        **{
            name: _section(file, text, name, kind, content.get(name, {}))
            for name, kind in sections.items()
        },
    )


def _section(file: Path, text: str, name: str, kind: type, given: dict[str, Any]) -> Any:
    _known(file, text, name, given, [f.name for f in dataclasses.fields(kind)])
    hints = get_type_hints(kind)
    values = {}
    for key, value in given.items():
        hint = hints[key]
        if hint == tuple[str, ...]:
            _typed(file, text, name, key, value, list)
            for item in value:
                _typed(file, text, name, key, item, str, "a list of strings")
            value = tuple(value)
        elif hint not in (int, str):
            _typed(file, text, name, key, value, dict, "a table of strings")
            for item in value.values():
                _typed(file, text, name, key, item, str, "a table of strings")
        else:
            _typed(file, text, name, key, value, hint)
        least = 0 if key in ("workers", "gpus") else 1
        if hint is int and value < least:
            place = _place(file, text, name, key)
            raise ValueError(f"{place}: [{name}] {key} is {value}; expected {least} or more")
        values[key] = value
    return kind(**values)


def _known(file: Path, text: str, section: str, given: Any, allowed: list[str]) -> None:
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            what = f"key {key!r} in [{section}]" if section else f"section [{key}]"
            raise ValueError(
                f"{_place(file, text, section, key)}: unknown {what}{hint}; "
                f"allowed: {', '.join(allowed) or 'none'}"
            )


TYPE_NAMES = {str: "a string", int: "a whole number", list: "a list of strings", dict: "a table"}


def _typed(
    file: Path, text: str, section: str, key: str, value: Any, kind: type, expected: str = ""
) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(
            f"{_place(file, text, section, key)}: [{section}] {key} is {value!r}; "
            f"expected {expected or TYPE_NAMES[kind]}"
        )


def _place(file: Path, text: str, section: str, key: str) -> str:
    """ "site.toml, line 7": tomllib keeps no positions, so the key is looked up in its section."""
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*\"?([\w.-]+)", line):
            current = header[1]
            if not section and current.split(".")[0] == key:
                return f"{file}, line {number}"
            if current == f"{section}.{key}":
                return f"{file}, line {number}"
        elif re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line) and current == section:
            return f"{file}, line {number}"
    return str(file)
