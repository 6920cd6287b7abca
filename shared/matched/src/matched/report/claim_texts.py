"""Lines of ``matched claims``: what the tables have to do, and the verdicts so far."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matched.job_packing import LONG_HOURS, short_runs_note
from matched.preflight import gpus_missing_here
from matched.report.claimed_tables import ClaimedTable
from matched.report.verdicts import Judged, Part, Verdict
from matched.wording import counted


def plan_lines(tables: Sequence[ClaimedTable], cluster: str) -> Iterator[str]:
    """Yield a line for each table with missing runs, and one for all; none if all have finished."""
    missing = [table for table in tables if table.plan.missing]
    possible = []
    for table in missing:
        plan = table.plan
        counts = f"{len(plan.missing)} of {counted(len(plan.runs), 'run')} to do"
        if missing_gpus := gpus_missing_here(plan, cluster):
            yield f"{plan.recipe.name}: {counts}, but it {missing_gpus}"
        else:
            possible.append(table)
            yield f"{plan.recipe.name}: {counts}, {table.hours:,.1f} h"
    if not possible:
        return
    hours = sum(table.hours for table in possible)
    place = "on the cluster, without queueing" if cluster == "slurm" else "here"
    note = short_runs_note(*(table.plan for table in possible))
    yield (
        f"Expected: {hours:,.1f} h {place}, one table after the other; shared runs count once{note}"
    )
    if cluster != "slurm" and hours > LONG_HOURS:
        yield (
            "That is more than a day. It can be interrupted at any time and continues where it "
            f"was; faster are `gpus` or `workers` under [local] in {possible[0].plan.site.file}, "
            "and --cluster slurm"
        )


def make_arguments(table: ClaimedTable, project: Path, arms: Sequence[str]) -> str:
    """Return the arguments with which make computes a table: "table1", "table FILE=my.py".

    Args:
        arms: extra arms. A table that cannot have them gets an empty ``WITH=``.
    """
    recipe = table.plan.recipe
    path = os.path.relpath(recipe.path, project)
    target = recipe.name if recipe.paper else f"table FILE={path}"
    return f"{target} WITH=" if arms and not recipe.extra_arms else target


def verdict_lines(scorecard: Iterable[Sequence[Judged]]) -> Iterator[str]:
    """Yield each claim with its verdict, and below it the statistic of each part if one has run."""
    for judged in (one for claim in scorecard for one in claim):
        needed = f" ({judged.seeds_needed})" if judged.seeds_needed else ""
        yield f"{judged.verdict}: {judged.claim.statement}{needed}"
        if judged.verdict is not Verdict.NOT_RUN:
            yield from (f"    {part_text(part)}" for part in judged.parts)


def part_text(part: Part) -> str:
    """Return "ViT-B (table1): undecided, +0.3 %, 95 % interval …"."""
    label = f"{part.label}: " if part.label else ""
    return f"{label}{part.verdict}, {part.detail}"
