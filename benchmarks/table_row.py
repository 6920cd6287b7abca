"""Agreement of a table's row with the intervals in its recipe, computed again in this process.

    python benchmarks/table_row.py table8 vit_s                 # all seeds: an hour and a half
    python benchmarks/table_row.py table8 vit_s --seeds 0 1     # less, and a weaker test
    python benchmarks/table_row.py table8 vit_s --folder .      # of runs that this checkout has

All arms of the row at mini scale are computed in a new folder, or in that of --folder, where
finished runs are taken as they are and interrupted ones continue. A recipe states in its docstring
what it expects, for each arm the mean over seeds and its 95 % t interval:

    Expected   vit_s: LN 98.0 (97.6 to 98.4), DyT 97.9 (97.2 to 98.6)

An arm agrees if its own interval overlaps that of the docstring; with one seed, if the value is in
it. The last line that is printed states the results in this form. The exit code is 1 if an arm does
not agree or has no interval. With --json the results are printed without a comparison.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matched import planning, preflight, recipes, site, submission
from matched.recipes import Recipe
from matched.report.intervals import mean_interval
from matched.table import Cell, Scale

Interval = tuple[float, float]
NUMBER = r"(-?[\d.]+)"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A cell of the row after its run.

    Attributes:
        metric: key of the first metric of the scale that the run has.
        value: its value; None if the run failed or has diverged.
        state: of the run.
    """

    arm: str
    trial: str
    seed: int
    metric: str
    value: float | None
    state: str
    hardware: str


def cells_of(recipe: Recipe, scale: Scale, row: str, seeds: Sequence[int]) -> list[Cell]:
    """Return the cells of a row with these seeds, or with all of the scale.

    Raises:
        ValueError: for an unknown row or seed.
    """
    if row not in scale.runs:
        raise ValueError(
            f"{recipe.name} has no row {row} at {scale.name} scale; its rows are "
            f"{', '.join(scale.runs)}"
        )
    if unknown := [seed for seed in seeds if seed not in scale.seeds]:
        raise ValueError(f"{recipe.name} has the seeds {scale.seeds}, not {unknown}")
    chosen = seeds or scale.seeds
    return [c for c in recipe.table.cells(scale) if c.row == row and c.seed in chosen]


def compute(recipe: Recipe, scale: Scale, cells: Sequence[Cell], folder: Path) -> list[Result]:
    """Compute the runs of cells, and what they need, in this process; return their results.

    Args:
        folder: that of site.toml; the runs are next to it unless it has another place.

    Raises:
        ValueError: if data is missing, or a run is computed elsewhere or damaged.
    """
    settings = site.read(folder / "site.toml")
    plan = planning.make_plan(recipe, scale, settings, only=cells).on_cluster("local")
    preflight.check_foreground(plan)
    if plan.missing:
        submission.run_in_process(plan)
        plan = plan.refreshed()
    results = []
    for cell in cells:
        status = plan.by_run[cell.run].status
        outcome = status.result or {}
        metrics = outcome.get("metrics", {})
        known = (metric.key for metric in recipe.metrics(scale) if metric.key in metrics)
        key = next(known, recipe.metrics(scale)[0].key)
        finite = status.state.finished and not outcome.get("diverged")
        results.append(
            Result(
                arm=cell.arm,
                trial=cell.value,
                seed=cell.seed,
                metric=key,
                value=metrics.get(key) if finite else None,
                state=str(status.state),
                hardware=outcome.get("hardware", ""),
            )
        )
    return results


def expected_intervals(docstring: str, row: str, arms: Sequence[str]) -> dict[str, Interval]:
    """Return arm → interval that a docstring states for a row."""
    text = " ".join(docstring.split())
    found = re.search(rf"\b{re.escape(row)}: (.*?)(?=;|\. |$|\b\w+: )", text)
    part = found.group(1) if found else ""
    intervals = {}
    for arm in arms:
        stated = re.search(rf"(?:^|, ){re.escape(arm)} {NUMBER} \({NUMBER} to {NUMBER}\)", part)
        if stated:
            intervals[arm] = float(stated.group(2)), float(stated.group(3))
    return intervals


def measured_intervals(results: Sequence[Result]) -> dict[str, Interval | None]:
    """Return arm → 95 % t interval of its mean, or its only value twice; None if a run has none."""
    values: dict[str, list[float | None]] = {}
    for result in results:
        values.setdefault(f"{result.arm} {result.trial}".rstrip(), []).append(result.value)
    intervals: dict[str, Interval | None] = {}
    for arm, of_arm in values.items():
        finite = [value for value in of_arm if value is not None]
        if len(finite) < len(of_arm):
            intervals[arm] = None
        elif len(finite) == 1:
            intervals[arm] = finite[0], finite[0]
        else:
            intervals[arm] = mean_interval(finite)
    return intervals


def disagreements(
    expected: Mapping[str, Interval], measured: Mapping[str, Interval | None]
) -> list[str]:
    """Return a line for each arm whose interval does not overlap the expected one."""
    lines = []
    for arm, interval in measured.items():
        if arm not in expected:
            lines.append(f"{arm}: the recipe states no interval")
        elif interval is None:
            lines.append(f"{arm}: a run has failed or diverged")
        else:
            (low, high), (least, most) = interval, expected[arm]
            # Docstrings round to a tenth.
            if low > most + 0.05 or high < least - 0.05:
                text = f"{low:.1f} to {high:.1f} against {least:.1f} to {most:.1f}"
                lines.append(f"{arm}: {text}")
    return lines


def statement(row: str, measured: Mapping[str, Interval | None]) -> str:
    """Return the intervals as a docstring states them."""
    parts = [
        f"{arm} diverged or failed"
        if interval is None
        else f"{arm} {sum(interval) / 2:.4g} ({interval[0]:.4g} to {interval[1]:.4g})"
        for arm, interval in measured.items()
    ]
    return f"{row}: {', '.join(parts)}"


def docstring_of(recipe: Recipe, scale: str) -> str:
    """Return the docstring of a table's scale page, or of the table if the scale is in it."""
    page = recipe.path.parent / scale / recipe.path.name
    path = page if page.is_file() else recipe.path
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="such as table8, or a recipe file")
    parser.add_argument("row")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    parser.add_argument("--folder", type=Path, help="of site.toml and runs (default: a new one)")
    parser.add_argument("--json", action="store_true", help="only print the results")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    recipe = recipes.load(args.table)
    scale = recipe.scale(args.scale)
    cells = cells_of(recipe, scale, args.row, args.seeds)
    with tempfile.TemporaryDirectory() as temporary:
        results = compute(recipe, scale, cells, args.folder or Path(temporary))
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
        return 0
    measured = measured_intervals(results)
    expected = expected_intervals(docstring_of(recipe, args.scale), args.row, list(measured))
    lines = disagreements(expected, measured)
    print("\n".join(lines or ["every arm agrees"]))
    print(statement(args.row, measured))
    return bool(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
