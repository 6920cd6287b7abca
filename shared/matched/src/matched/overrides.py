"""Changes of config fields on the command line: ``--set lr=1e-3``, typed as the config's fields.

All arms get the same change, so pairs stay matched, and the change is part of each signature.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from matched.recipes import Recipe
from matched.run import Run
from matched.search import map_runs
from matched.table import Scale
from matched.wording import known_names, unknown_name

ARM_FIELDS = ("norm", "seed")
"""Fields that the table's arms and seeds set in every run."""
WORDS = {"none": None, "true": True, "false": False}
"""Values that may be typed in lower case."""

Tree = Mapping[str, Any]
"""Field name → the text of its value, or the tree of the fields of a nested dataclass or a need."""


def with_changes(recipe: Recipe, scale: Scale, texts: Sequence[str]) -> tuple[Recipe, Scale]:
    """Return the recipe and the scale with config fields changed in the runs of all rows and arms.

    Args:
        texts: "field=value"; "network.width=64" is a field of a nested dataclass, and
            "pretrained.lr=1e-3" one of the run that is needed under the name "pretrained".
            "data=name" also takes the scale that the recipe has for that data, if it has one.

    Raises:
        ValueError: for a field that some run does not have, and for a value of another type than
            the field's, or that the config refuses.
    """
    if not texts:
        return recipe, scale
    tree = _parse_texts(texts)
    values: dict[str, Any] = {}
    data = tree.get("data")
    scale = scale.on_data.get(data, scale) if isinstance(data, str) else scale

    def changed(row: str, run: Run) -> Run:
        try:
            return _change_run(run, tree, "", values)
        except ValueError as error:
            raise ValueError(f"--set: row {row} of {recipe.name}: {error}") from None

    runs = {
        row: changed(row, run)
        if isinstance(run, Run)
        else {arm: map_runs(cell, partial(changed, row)) for arm, cell in run.items()}
        for row, run in scale.runs.items()
    }
    # Sorted, because the order on the command line must not give results another name.
    return replace(recipe, changes=dict(sorted(values.items()))), replace(scale, runs=runs)


def on_data(recipe: Recipe, scale: Scale, texts: Sequence[str]) -> tuple[Recipe, Scale] | None:
    """Return recipe and scale on the data of "data=name", or None if the recipe has no such scale.

    Without a text they stay as they are.

    Raises:
        ValueError: for any other change.
    """
    if not texts:
        return recipe, scale
    return with_changes(recipe, scale, texts) if _data_name(texts) in scale.on_data else None


def check_data_known(texts: Sequence[str], known: Iterable[str]) -> None:
    """Check that a table has the data of "data=name"; ``known`` is what the tables have.

    Raises:
        ValueError: for other data, or any other change.
    """
    if texts and (data := _data_name(texts)) not in (names := list(known)):
        raise ValueError(f"--set: {unknown_name(data, names, 'data of the tables')}")


def _data_name(texts: Sequence[str]) -> str:
    """Return the name in "data=name".

    Raises:
        ValueError: for any other change, of which reports over all tables know nothing.
    """
    tree = _parse_texts(texts)
    data = tree.get("data")
    if len(tree) != 1 or not isinstance(data, str):
        raise ValueError(
            f"--set {' '.join(texts)}: over all tables only data=name can be changed, such as "
            "data=cifar100; change other fields of single tables"
        )
    return data


def _parse_texts(texts: Sequence[str]) -> Tree:
    """Return the tree of all changes.

    Raises:
        ValueError: for a text that is not "field=value", or a field that is given twice.
    """
    tree: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        *parents, name = path.strip().split(".")
        if not equals or not all([*parents, name]):
            raise ValueError(f"--set {text}: expected field=value, such as lr=1e-3")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or name in node:
            raise ValueError(f"--set {text}: {path.strip()} is changed twice")
        node[name] = value.strip()
    return tree


def _change_run(run: Run, tree: Tree, place: str, values: dict[str, Any]) -> Run:
    """Change the run's config, and the configs of its needs where the tree names a need."""
    own = {name: value for name, value in tree.items() if not _is_need(run, name, value)}
    needs = {
        name: _change_run(need, tree[name], f"{place}{name}.", values)
        if name in tree and name not in own
        else need
        for name, need in run.needs.items()
    }
    for name in ARM_FIELDS:
        if name in own:
            raise ValueError(f"{place}{name} is set by the table's arms and seeds")
    return Run(
        task=run.task,
        config=_change_fields(run.config, own, place, values, run.needs),
        needs=needs,
    )


def _is_need(run: Run, name: str, value: Any) -> bool:
    return name in run.needs and isinstance(value, dict)


def _change_fields(
    config: Any, tree: Tree, place: str, values: dict[str, Any], needs: Iterable[str] = ()
) -> Any:
    """Return the dataclass with its fields changed, all at once, because they may be checked."""
    if not tree:
        return config
    names = [field.name for field in dataclasses.fields(config)]
    hints = _type_hints(type(config))
    changes = {}
    for name, value in tree.items():
        path = f"{place}{name}"
        if name not in names:
            raise ValueError(_unknown_field(path, name, type(config), [*names, *needs]))
        if isinstance(value, dict):
            inner = getattr(config, name)
            if not dataclasses.is_dataclass(inner):
                raise ValueError(f"{path} is {inner!r}, which has no fields to change")
            changes[name] = _change_fields(inner, value, f"{path}.", values)
        else:
            changes[name] = values[path] = parse_value(value, hints[name], path)
    return replace(config, **changes)


def _unknown_field(path: str, name: str, kind: type, known: list[str]) -> str:
    return f"{kind.__name__} has no field {path}; {known_names(name, known)}"


def _type_hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except NameError as error:
        raise ValueError(
            f"the annotations of {kind.__name__} cannot be read ({error}); "
            "import the types they name in its module"
        ) from None


def parse_value(text: str, annotation: Any, name: str) -> Any:
    """Return ``text`` as a value of the annotated type: "1e-3" for float, "(0.9, 0.95)", "None".

    Raises:
        ValueError: naming the field and its type if the text is no such value, or if a number in it
            is not finite.
    """
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        fields = ", ".join(f"{name}.{field.name}" for field in dataclasses.fields(annotation))
        raise ValueError(f"{name} is a {annotation.__name__}; change its fields: {fields}")
    for reading in _readings(text):
        try:
            value = _conform(reading, annotation)
        except _WrongTypeError:
            continue
        if not _is_finite(value):
            raise ValueError(f"{name} is {text!r}, which is not finite; expected finite numbers")
        return value
    shown = getattr(annotation, "__name__", "") if isinstance(annotation, type) else ""
    expected = shown or str(annotation).replace("typing.", "")
    raise ValueError(f"{name} is {text!r}; expected {expected}")


def _readings(text: str) -> list[Any]:
    """Return the values that a text may mean: a Python literal first, then the text itself."""
    if text.lower() in WORDS:
        return [WORDS[text.lower()], text]
    try:
        return [ast.literal_eval(text), text]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text]


def _is_finite(value: Any) -> bool:
    """False for an infinite number, such as 1e999, anywhere in a value."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, (tuple, list)) or all(map(_is_finite, value))


class _WrongTypeError(Exception):
    """A value is not of the annotated type."""


def _conform(value: Any, annotation: Any) -> Any:
    """Return the value as the annotation has it: an int becomes a float, a list a tuple.

    Elements of sequences and mappings have to be of the annotated types as well.

    Raises:
        _WrongTypeError: if it is not of that type.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation is object:
        return value
    if origin in (Union, types.UnionType):
        return _first_that_conforms(value, arguments)
    if origin is Literal:
        matching = [c for c in arguments if c == value and type(c) is type(value)]
        accepted = bool(matching)
    elif origin is tuple or annotation is tuple:
        return _conform_tuple(value, arguments)
    elif annotation is float and type(value) is int:
        return float(value)
    elif annotation in (None, types.NoneType):
        accepted = value is None
    elif _is_subclass(origin, Mapping):
        return _conform_mapping(value, arguments)
    elif _is_subclass(origin, Sequence):
        return _conform_sequence(value, origin, arguments)
    elif origin is not None:  # another generic class: its elements are unknown
        accepted = isinstance(value, origin)
    else:
        # Not isinstance: a bool is an int.
        accepted = type(value) is annotation
    if not accepted:
        raise _WrongTypeError
    return value


def _first_that_conforms(value: Any, annotations: Sequence[Any]) -> Any:
    for annotation in annotations:
        with suppress(_WrongTypeError):
            return _conform(value, annotation)
    raise _WrongTypeError


def _conform_tuple(value: Any, annotations: Sequence[Any]) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise _WrongTypeError
    if not annotations:
        return tuple(value)
    if annotations[-1] is Ellipsis:
        annotations = [annotations[0]] * len(value)
    if len(annotations) != len(value):
        raise _WrongTypeError
    return tuple(_conform(item, kind) for item, kind in zip(value, annotations, strict=True))


def _is_subclass(origin: Any, kind: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


def _conform_mapping(value: Any, annotations: Sequence[Any]) -> dict[Any, Any]:
    """Conform keys and values: dict[str, float], Mapping[str, int]."""
    if not isinstance(value, Mapping):
        raise _WrongTypeError
    keys, values = annotations
    return {_conform(key, keys): _conform(item, values) for key, item in value.items()}


def _conform_sequence(value: Any, origin: type, annotations: Sequence[Any]) -> Any:
    """Conform the elements: a list for list[int], a tuple for Sequence[int]; a str is neither."""
    if not isinstance(value, (tuple, list)):
        raise _WrongTypeError
    (kind,) = annotations
    items = [_conform(item, kind) for item in value]
    return items if issubclass(origin, list) else tuple(items)
