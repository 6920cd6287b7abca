"""Runs: a task, its config and the runs it needs, identified by a signature."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import isfinite
from typing import Any

SIGNATURE_LENGTH = 12
"""Hex digits of a signature: 48 bits, so 10,000 runs collide with probability 2e-7."""
_SIGNATURE_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_UNCHANGED: frozenset[type] = frozenset({str, bool, type(None)})
"""Types whose values are JSON values wherever they are in a config."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One computation, described completely by plain values.

    Attributes:
        task: entry point "package.module:function"; resolved only in the job, so that planning
            imports no model code.
        config: a frozen, keyword-only dataclass of plain values, with the fields ``seed`` and
            ``norm`` unless the run is the same for all of them.
        needs: runs whose outputs this one starts from, by the name that the task uses for them
            ({"pretrained": run}).
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
        for name, need in self.needs.items():
            if not isinstance(need, Run):
                raise ValueError(
                    f"{self.task} needs {name!r}, of type {type(need).__name__}; expected a Run"
                )

    @cached_property
    def description(self) -> dict[str, Any]:
        """The run as JSON values with defaults filled in: the content of config.json."""
        return {
            "task": self.task,
            "config": json_value(self.config),
            "needs": {name: need.signature for name, need in sorted(self.needs.items())},
        }

    @cached_property
    def signature(self) -> str:
        """Hash of task, config and needs with defaults filled in: a changed default is a new run.

        Machine, cluster, paths and number of GPUs are not part of it.
        """
        text = _SIGNATURE_ENCODER.encode(self.description)
        return hashlib.sha256(text.encode()).hexdigest()[:SIGNATURE_LENGTH]

    @property
    def folder(self) -> str:
        """Path of the run directory, relative to the runs folder."""
        return f"{self.task.replace(':', '.')}/{self.signature}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.signature == self.signature

    def __hash__(self) -> int:
        return hash(self.signature)


def json_value(value: Any, path: str = "config", ints_as_floats: bool = False) -> Any:
    """Convert ``value`` to JSON values; dataclasses keep their class name under "__type__".

    An int in a field annotated as float becomes a float: lr=1 and lr=1.0 are the same run.

    Args:
        value: a config, or a part of it.
        path: dotted path of ``value`` in the config, for the error message.
        ints_as_floats: convert the ints in ``value`` to floats.

    Raises:
        ValueError: for a value without a unique JSON form (a path, a NaN, a live object).
    """
    kind = type(value)
    if kind is int:
        return float(value) if ints_as_floats else value
    if kind in _UNCHANGED:
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [json_value(item, f"{path}[{i}]", ints_as_floats) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(kind):
        fields = {"__type__": kind.__name__}
        for name, is_float, unchanged in _json_fields(kind):
            item = getattr(value, name)
            # A table of 10,000 runs has half a million fields, and most need no call.
            if type(item) not in unchanged and not (type(item) is float and isfinite(item)):
                item = json_value(item, f"{path}.{name}", is_float)
            fields[name] = item
        return fields
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {
            key: json_value(item, f"{path}.{key}", ints_as_floats) for key, item in value.items()
        }
    raise ValueError(
        f"{path} is {value!r}, which cannot be stored as JSON; "
        "use numbers, strings, booleans, None, tuples, dicts and dataclasses of these"
    )


@cache
def _json_fields(config_class: type) -> tuple[tuple[str, bool, frozenset[type]], ...]:
    """Return every field's name, whether its ints become floats, and the types left unchanged."""
    return tuple(
        (f.name, is_float, _UNCHANGED if is_float else _UNCHANGED.union([int]))
        for f in dataclasses.fields(config_class)
        for is_float in [_is_float_annotation(str(f.type))]
    )


def _is_float_annotation(annotation: str) -> bool:
    """True if the annotation names float and not int: float | None, tuple[float, float]."""
    words = re.findall(r"\w+", annotation)
    return "float" in words and "int" not in words


def derive_run(run: Run, *, norm: Any, seed: int | None = None, **changes: Any) -> Run:
    """Return ``run`` with another ``norm`` and ``seed``, in its config and in those of its needs.

    None keeps the value of every run. A config without the field is left as it is: a run without a
    norm, such as a cache of the data, is shared by all arms.

    ``changes`` are further fields of this run's own config (not of its needs), for tables whose
    arms differ in more than the norm, such as a tuned learning rate; the table must list them in
    its ``allowed_differences``.

    Raises:
        ValueError: if neither the run nor any run it needs has the field.
    """
    shared = {
        name: value for name, value in {"norm": norm, "seed": seed}.items() if value is not None
    }
    own_fields = _field_names(run.config.__class__)
    unknown = sorted((set(shared) - _field_names_with_needs(run)) | (set(changes) - own_fields))
    if unknown:
        raise ValueError(
            f"config {type(run.config).__name__} of {run.task} has no field "
            f"{', '.join(unknown)}; it has {', '.join(sorted(own_fields))}"
        )
    return _replace_fields(run, shared, changes)


def _replace_fields(run: Run, shared: Mapping[str, Any], changes: Mapping[str, Any]) -> Run:
    """Set ``shared`` fields in the run and its needs where they exist, ``changes`` in the run."""
    names = _field_names(run.config.__class__)
    own = {name: value for name, value in shared.items() if name in names}
    return Run(
        task=run.task,
        config=dataclasses.replace(run.config, **own, **changes),
        needs={name: _replace_fields(need, shared, {}) for name, need in run.needs.items()},
    )


@cache
def _field_names(config_class: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(config_class))


def _field_names_with_needs(run: Run) -> frozenset[str]:
    own_fields = _field_names(run.config.__class__)
    return own_fields.union(*(_field_names_with_needs(need) for need in run.needs.values()))
