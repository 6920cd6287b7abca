"""Site settings: the machine, cluster and data paths of one user, read from site.toml.

Nothing in site.toml is part of a run's signature.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from matched import machine
from matched.data import load_source, registered_sources
from matched.files import read_text

FILE = "site.toml"
MEMORY_UNITS = ("per-node", "per-cpu", "per-gpu", "none")
"""Slurm's options --mem, --mem-per-cpu and --mem-per-gpu, or no option at all."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """[local]: this machine.

    Attributes:
        workers: number of CPU runs at a time; 0 means one per core, or per ``threads`` cores.
        threads: threads of each run.
        gpus: number of GPUs that the runs asking for GPUs share.
        gpu_memory_gb: memory of one of them; 0 if runs are to be submitted whatever they need.
    """

    workers: int = 0
    threads: int = 1
    gpus: int = 0
    gpu_memory_gb: int = 0

    def worker_count(self) -> int:
        """Return ``workers``, or if it is 0 the number that affinity and CPU quota allow."""
        return self.workers or max(1, machine.usable_cores() // self.threads)

    def usable_gpus(self) -> tuple[str, ...]:
        """Return the GPUs that runs share, as CUDA_VISIBLE_DEVICES names them.

        These are the first ``gpus`` of those that the caller allows in that variable, or of all.
        """
        visible = machine.visible_gpus()
        if visible is None:
            visible = tuple(map(str, range(self.gpus)))
        return visible[: self.gpus]


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """[slurm]: the cluster. An empty string leaves the choice to Slurm.

    Attributes:
        gpu_memory_gb: memory of a GPU; 0 if runs are to be submitted whatever they need.
        max_hours: longest job that the partition accepts; longer runs are requeued and resume.
        grace_seconds: time before that limit at which runs are told to save.
        parallel: largest number of jobs of one submission that run at a time.
        max_array: largest number of jobs in one array (Slurm's MaxArraySize minus one).
        memory: unit in which jobs ask for memory: one of ``MEMORY_UNITS``.
        setup: shell lines before the job starts.
        options: any further sbatch options. They replace ours that mean the same, and an empty
            string only removes ours.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpus_per_node: int = 8
    gpu_memory_gb: int = 0
    max_hours: int = 24
    grace_seconds: int = 120
    parallel: int = 64
    max_array: int = 1000
    memory: str = "per-node"
    setup: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """[runs]: location of the run directories, and the time between checkpoints.

    A checkpoint is due after ``checkpoint_steps`` optimizer steps or ``checkpoint_minutes``
    minutes, whichever comes first. With ``async_checkpoints``, sharded runs continue to train while
    it is written from a copy of the state, for which each process needs the memory.
    """

    folder: str = "runs"
    checkpoint_steps: int = 500
    checkpoint_minutes: int = 10
    async_checkpoints: bool = False


@dataclass(frozen=True, kw_only=True)
class Site:
    """The content of site.toml; ``data`` maps names of data sources to paths.

    The keys of [upstream], checkouts of other repositories, are the data sources "upstream.KEY".
    """

    file: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    local: Local = field(default_factory=Local)
    slurm: Slurm = field(default_factory=Slurm)

    @property
    def runs_folder(self) -> Path:
        return _absolute(self.file, self.runs.folder)


def _absolute(file: Path, path: str) -> Path:
    """Return a path of site.toml with ``~`` expanded, relative to the folder of the file."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(
            f"{file}: the home folder in {path!r} is not known, as HOME is not set or there is no "
            "such user; write the absolute path"
        )
    return (file.parent / expanded).absolute()


SECTIONS = {"runs": Runs, "local": Local, "slurm": Slurm}
UPSTREAM = "upstream"
"""Section of the checkouts, and the prefix of the names of their data sources."""


def find(project: Path) -> Path:
    """Return the path of site.toml: MATCHED_SITE if it is set, or else the project's.

    Raises:
        ValueError: if MATCHED_SITE names no file.
    """
    name = os.environ.get("MATCHED_SITE")
    if not name:
        return project / FILE
    path = Path(name).absolute()
    if not path.is_file():
        raise ValueError(f"MATCHED_SITE is {name}, and there is no such file")
    return path


def read(file: Path) -> Site:
    """Read site.toml from ``file``; return the defaults if the file does not exist.

    Raises:
        ValueError: for a key that is unknown or of the wrong type, with its line and what is
            allowed, or for a file that is not in UTF-8.
    """
    if not file.exists():
        return Site(file=file)
    text = read_text(file)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: {error}") from None
    validator = _Validator(file, text)
    validator.check_keys("", content, ["data", UPSTREAM, *SECTIONS])
    for name, section in content.items():
        if not isinstance(section, dict):
            raise ValueError(f"{validator.location('', name)}: {name} must be a section, [{name}]")
    paths = {}
    for section, prefix in (("data", ""), (UPSTREAM, f"{UPSTREAM}.")):
        entries = content.get(section, {})
        if entries:
            validator.check_keys(section, entries, _source_keys(prefix))
        for key, path in entries.items():
            validator.check_path(section, key, path)
            paths[prefix + key] = _absolute(file, path)
    return Site(
        file=file,
        data=paths,
        **{
            name: _section(validator, name, kind, content.get(name, {}))
            for name, kind in SECTIONS.items()
        },
    )


def _source_keys(prefix: str) -> list[str]:
    """Return the keys of the data sources with a path that belong to [data] or to [upstream]."""
    names = [name for name in registered_sources() if not load_source(name).embedded]
    if prefix:
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [name for name in names if not name.startswith(f"{UPSTREAM}.")]


def _section(validator: _Validator, name: str, kind: type, values: dict[str, Any]) -> Any:
    """Create the dataclass ``kind`` of a section from its checked values."""
    validator.check_keys(name, values, [f.name for f in dataclasses.fields(kind)])
    hints = get_type_hints(kind)
    return kind(
        **{
            key: _checked_value(validator, name, key, value, hints[key])
            for key, value in values.items()
        }
    )


def _checked_value(validator: _Validator, section: str, key: str, value: Any, hint: Any) -> Any:
    """Check a value of a section, and return it converted to its type ``hint``."""
    if hint is str:
        validator.check_type(section, key, value, str, "a string")
        if key == "folder":
            validator.check_path(section, key, value)
        if key == "memory" and value not in MEMORY_UNITS:
            raise ValueError(
                f"{validator.location(section, key)}: [{section}] memory is {value!r}; "
                f"expected one of {', '.join(MEMORY_UNITS)}"
            )
    elif hint is bool:
        validator.check_type(section, key, value, bool, "true or false")
    elif hint is int:
        validator.check_type(section, key, value, int, "a whole number")
        least = 0 if key in ("workers", "gpus", "gpu_memory_gb") else 1
        if value < least:
            location = validator.location(section, key)
            raise ValueError(f"{location}: [{section}] {key} is {value}; expected {least} or more")
    elif hint == tuple[str, ...]:
        validator.check_type(section, key, value, list, "a list of strings")
        for item in value:
            validator.check_type(section, key, item, str, "a list of strings")
        value = tuple(value)
    else:
        validator.check_type(section, key, value, dict, "a table of strings")
        for item in value.values():
            validator.check_type(section, key, item, str, "a table of strings")
    return value


@dataclass(frozen=True)
class _Validator:
    """Checks of keys and types in site.toml, whose errors begin with the file and the line."""

    file: Path
    text: str

    def check_keys(self, section: str, keys: Iterable[str], allowed: list[str]) -> None:
        for key in keys:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                what = f"key {key!r} in [{section}]" if section else f"section [{key}]"
                raise ValueError(
                    f"{self.location(section, key)}: unknown {what}{hint}; "
                    f"allowed: {', '.join(allowed) or 'none'}"
                )

    def check_type(self, section: str, key: str, value: Any, kind: type, expected: str) -> None:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(
                f"{self.location(section, key)}: [{section}] {key} is {value!r}; "
                f"expected {expected}"
            )

    def check_path(self, section: str, key: str, path: Any) -> None:
        self.check_type(section, key, path, str, "a string")
        if not path:
            raise ValueError(
                f"{self.location(section, key)}: [{section}] {key} is empty; "
                "write a path, or leave the key out"
            )

    def location(self, section: str, key: str) -> str:
        """Return "site.toml, line 7" by a search for the key: tomllib keeps no line numbers."""
        current = ""
        for number, line in enumerate(self.text.splitlines(), start=1):
            if header := re.match(r"\s*\[+\s*\"?([\w.-]+)", line):
                current = header[1]
                if not section and current.split(".")[0] == key:
                    return f"{self.file}, line {number}"
                if current == f"{section}.{key}":
                    return f"{self.file}, line {number}"
            elif re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line) and current == section:
                return f"{self.file}, line {number}"
        return str(self.file)
