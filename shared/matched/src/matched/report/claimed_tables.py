"""Tables that claims name, at one scale: the runs that they have to do, and the time it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matched import extra_arms, overrides, planning, recipes
from matched.claims import CellKey, Claim
from matched.job_packing import hours_here, pack_jobs
from matched.planning import Plan
from matched.run import Run
from matched.site import Site
from matched.slurm_summary import hours_to_last_job


@dataclass(frozen=True, kw_only=True)
class ClaimedTable:
    """A table of the claims, without the runs that an earlier one of them has.

    Attributes:
        hours: expected time until the last missing run has ended.
    """

    plan: Plan
    hours: float


def load_claims(project: Path) -> tuple[Claim, ...]:
    """Return the project's claims; none without a file of them."""
    return recipes.load_constant(project / "recipes" / "claims.py", "CLAIMS", tuple) or ()


def own_recipes(project: Path) -> list[str]:
    """Return the recipe files that claims name besides the papers' tables."""
    return [name for name in _named_tables(load_claims(project)) if name.endswith(".py")]


def claimed_tables(
    claims: Iterable[Claim],
    project: Path,
    site: Site,
    *,
    scale: str,
    cluster: str,
    changes: Sequence[str] = (),
    arms: Sequence[str] = (),
) -> list[ClaimedTable]:
    """Return the tables that the claims name and that have the scale, in the order of the claims.

    Args:
        changes: as ``overrides.on_data``; tables without that data are left out.
        arms: extra arms (``matched.extra_arms``), for the tables that can have them.

    Raises:
        ValueError: for a recipe that is refused, data that no table has, and as
            ``overrides.on_data``.
    """
    tables: list[ClaimedTable] = []
    planned: set[Run] = set()
    known: dict[str, None] = {}
    for name in _named_tables(claims):
        recipe = recipes.load(str(project / name) if name.endswith(".py") else name)
        for at in (one for one in recipe.table.scales if one.name == scale):
            known |= dict.fromkeys(at.on_data)
            changed = overrides.on_data(recipe, at, changes)
            if changed is None:
                continue
            plan = planning.make_plan(*extra_arms.with_possible_arms(*changed, arms), site)
            plan = plan.on_cluster(cluster)
            plan = replace(plan, runs=tuple(p for p in plan.runs if p.run not in planned))
            planned |= {one.run for one in plan.runs}
            packed = pack_jobs(plan, cluster)
            on_slurm = cluster == "slurm"
            hours = hours_to_last_job(packed, site.slurm) if on_slurm else hours_here(packed)
            tables.append(ClaimedTable(plan=plan, hours=hours))
    overrides.check_data_known(changes, known)
    return tables


def _named_tables(claims: Iterable[Claim]) -> list[str]:
    """Return the names of all tables of the claims, each once."""
    return list(dict.fromkeys(name for claim in claims for name in table_names(claim.test)))


def table_names(test: object) -> Iterator[str]:
    """Yield the tables that a claim's test names, and the paths of recipe files."""
    yield from getattr(test, "tables", ())
    for key in _cell_keys(tuple(vars(test).values()) if test is not None else ()):
        yield key.table


def _cell_keys(value: Any) -> Iterator[CellKey]:
    """Yield the cells in nested tuples."""
    if isinstance(value, CellKey):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _cell_keys(item)
