"""Further arms of a table, added on the command line: ``--with Derf``.

recipes/extra_arms.py lists them. The table's own arms, and their signatures, stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from matched import recipes
from matched.matching import check_matched
from matched.recipes import Recipe
from matched.run import Run, derive_run
from matched.search import Search, map_runs
from matched.table import Arm, Scale, Table
from matched.wording import match_name


class NotApplicableError(ValueError):
    """A table has the extra arm already, or no arm from which it could be derived."""


@dataclass(frozen=True, kw_only=True)
class ExtraArm:
    """An arm that is derived from one that a table has.

    Attributes:
        like: arms from which it can be derived; the first that the table has is taken.
        derive_norm: norm of that arm → norm of this one.
    """

    name: str
    like: tuple[str, ...]
    derive_norm: Callable[[Any], Any]


def with_arms(recipe: Recipe, scale: Scale, names: Sequence[str]) -> tuple[Recipe, Scale]:
    """Return the recipe and the scale with further arms, last in the given order.

    Raises:
        ValueError: for an unknown arm, one that the table has already, a table without an arm to
            derive it from, and runs that would not be matched.
    """
    path = recipe.project / "recipes" / "extra_arms.py"
    known: dict[str, ExtraArm] = {
        arm.name: arm for arm in recipes.load_constant(path, "EXTRA_ARMS", tuple) or ()
    }
    for name in names:
        extra = known[match_name(name, known, "arm for --with")]
        table, scale = _with_arm(recipe, scale, extra)
        recipe = replace(recipe, table=table, extra_arms=(*recipe.extra_arms, extra.name))
    if names:
        try:
            check_matched(recipe.table, scale)
        except ValueError as error:
            raise ValueError(f"--with {', '.join(names)}: {recipe.name}, {error}") from None
    return recipe, scale


def with_possible_arms(recipe: Recipe, scale: Scale, names: Sequence[str]) -> tuple[Recipe, Scale]:
    """Return the recipe and the scale with those of the arms that it lacks and can have."""
    for name in names:
        with suppress(NotApplicableError):
            recipe, scale = with_arms(recipe, scale, [name])
    return recipe, scale


def _with_arm(recipe: Recipe, scale: Scale, extra: ExtraArm) -> tuple[Table, Scale]:
    arms = {arm.name: arm for arm in recipe.table.arms}
    if extra.name in arms:
        raise NotApplicableError(
            f"--with {extra.name}: {recipe.name} has the arm {extra.name} already"
        )
    model = next((arms[name] for name in extra.like if name in arms), None)
    if model is None:
        raise NotApplicableError(
            f"--with {extra.name}: {recipe.name} has no arm {' or '.join(extra.like)} to derive it "
            f"from; its arms are {', '.join(arms)}"
        )
    added = replace(
        model,
        name=extra.name,
        norm=None if model.norm is None else extra.derive_norm(model.norm),
    )
    runs = {
        row: run if isinstance(run, Run) else _with_run(run, model, extra)
        for row, run in scale.runs.items()
    }
    arm_norms = scale.arm_norms
    if arm_norms:
        arm_norms = replace(
            arm_norms,
            norms=_with_derived_norm(arm_norms.norms, model, extra),
            by_row={
                row: _with_derived_norm(norms, model, extra)
                for row, norms in arm_norms.by_row.items()
            },
        )
    scale = replace(scale, runs=runs, arm_norms=arm_norms)
    # Other scales are not computed, and their rows have no such arm.
    table = replace(recipe.table, arms=(*recipe.table.arms, added), scales=(scale,))
    return table, scale


def _with_derived_norm(norms: Mapping[str, Any], model: Arm, extra: ExtraArm) -> dict[str, Any]:
    """Return the norms of a scale with that of the arm, if they name its model."""
    if model.name not in norms:
        return dict(norms)
    return {**norms, extra.name: extra.derive_norm(norms[model.name])}


def _with_run(
    row: Mapping[str, Run | Search], model: Arm, extra: ExtraArm
) -> dict[str, Run | Search]:
    """Return the runs of a row with that of the arm; without one if the row has no model of it."""
    if model.name not in row:
        return dict(row)
    cell = row[model.name]
    if model.norm is None:  # the norm is in the run's own config
        cell = map_runs(cell, lambda run: _with_norms(run, extra))
    return {**row, extra.name: cell}


def _with_norms(run: Run, extra: ExtraArm) -> Run:
    names = {field.name for field in dataclasses.fields(run.config)}
    if "norm" in names:
        return derive_run(run, norm=extra.derive_norm(run.config.norm))
    needs = {name: _with_norms(need, extra) for name, need in run.needs.items()}
    return replace(run, needs=needs)
