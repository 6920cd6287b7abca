"""A run is what is computed; its signature names it wherever and whenever it is computed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

SIGNATURE_LENGTH = 12
"""Hex digits of a signature: 48 bits, so 10,000 runs collide with probability 2e-7."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One computation, described completely by plain values.

    Attributes:
        task: entry point "package.module:function"; resolved only in the worker, so that
            planning imports no model code.
        config: a frozen, keyword-only dataclass of plain values, with the fields ``seed`` and
            ``norm`` unless the run is the same for all of them.
        needs: runs whose outputs this one starts from, by the name that the task knows them
            under ({"pretrained": run}).
    """

    task: str
    config: Any
    needs: Mapping[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module, _, function = self.task.partition(":")
        if not module or not function:
            raise ValueError(f"task {self.task!r} is not of the form 'package.module:function'")
        if not dataclasses.is_dataclass(self.config) or isinstance(self.config, type):
            raise ValueError(f"config of {self.task} must be a dataclass instance")

    @cached_property
    def description(self) -> dict[str, Any]:
        """The run as JSON values, defaults resolved: what config.json holds."""
        return {
            "task": self.task,
            "config": encode(self.config),
            "needs": {name: need.signature for name, need in sorted(self.needs.items())},
        }

    @cached_property
    def signature(self) -> str:
        """Hash of task, config and needs, fully resolved: a changed default is a new run."""
        text = json.dumps(self.description, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:SIGNATURE_LENGTH]

    @property
    def folder(self) -> str:
        """Path of the run's directory below the runs folder."""
        return f"{self.task.replace(':', '.')}/{self.signature}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.signature == self.signature

    def __hash__(self) -> int:
        return hash(self.signature)


def encode(value: Any, where: str = "config", floats: bool = False) -> Any:
    """``value`` as JSON values; dataclasses keep their class name under "__type__".

    A whole number in a field annotated as float becomes one: lr=1 and lr=1.0 are one run.

    Args:
        value: a config, or a part of it.
        where: its dotted path, for the error.
        floats: whether whole numbers in it are floats.

    Raises:
        ValueError: for a value that has no one plain form (a path, a NaN, a live object).
    """
    if type(value) is int:
        return float(value) if floats else value
    if value is None or type(value) in (str, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {"__type__": type(value).__name__}
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            fields[f.name] = encode(item, f"{where}.{f.name}", _means_floats(f.type))
        return fields
    if isinstance(value, (list, tuple)):
        return [encode(item, f"{where}[{i}]", floats) for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: encode(item, f"{where}.{key}", floats) for key, item in value.items()}
    raise ValueError(
        f"{where} is {value!r}, which has no plain form; "
        "use numbers, strings, booleans, None, tuples, dicts and dataclasses of these"
    )


@cache
def _means_floats(annotation: object) -> bool:
    """Whether a field so annotated holds floats and no ints: float | None, tuple[float, float]."""
    words = re.findall(r"\w+", str(annotation))
    return "float" in words and "int" not in words


def derive_run(run: Run, *, norm: Any, seed: int | None = None, **changes: Any) -> Run:
    """The run of another arm: ``run`` and all it needs with ``norm`` and ``seed`` in place.

    Where one of the two is None, every run keeps its own. A config without the field is left as it
    is: what knows no norm, such as a cache of the data, is one run for all arms.

    ``changes`` are further fields of this run's own config, for tables whose arms differ in
    more, such as a tuned learning rate; the table has to name them among its exceptions.

    Raises:
        ValueError: if neither the run nor any that it needs has the field.
    """
    common = {"norm": norm, "seed": seed}
    given = {key: value for key, value in common.items() if value is not None}
    own = _fields(run)
    unknown = sorted((set(given) - _fields_of_all(run)) | (set(changes) - own))
    if unknown:
        raise ValueError(
            f"config {type(run.config).__name__} of {run.task} has no field "
            f"{', '.join(unknown)}; it has {', '.join(sorted(own))}"
        )
    return _derived(run, given, changes)


def _derived(run: Run, given: Mapping[str, Any], changes: Mapping[str, Any]) -> Run:
    own = {key: value for key, value in given.items() if key in _fields(run)}
    return Run(
        task=run.task,
        config=dataclasses.replace(run.config, **own, **changes),
        needs={name: _derived(need, given, {}) for name, need in run.needs.items()},
    )


def _fields(run: Run) -> set[str]:
    return {f.name for f in dataclasses.fields(run.config)}


def _fields_of_all(run: Run) -> set[str]:
    """Of a run and all it needs."""
    return _fields(run).union(*(_fields_of_all(need) for need in run.needs.values()))
