"""Options that several commands share, and the cells that they select."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matched.planning import PlannedRun
from matched.preflight import CLUSTERS
from matched.search import label_of_text
from matched.table import SCALES, Cell
from matched.wording import match_name

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]


def add_table_command(
    commands: Commands, name: str, do: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add and return the parser of a command for one table at one scale."""
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    added.set_defaults(do=do)
    added.add_argument(
        "table", help="a table, such as table1, or a recipe file, such as my_table.py"
    )
    added.add_argument("--scale", default="smoke", help=f"{', '.join(SCALES)} (default smoke)")
    added.add_argument(
        "--with",
        dest="extra_arms",
        action="append",
        default=[],
        metavar="ARM",
        help="add an arm of recipes/extra_arms.py, such as Derf; may be given several times",
    )
    added.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a config field in all runs, such as lr=1e-3; may be given several times",
    )
    return added


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --cluster."""
    parser.add_argument("--cluster", default="local", help=f"{', '.join(CLUSTERS)} (default local)")


def add_submission(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that submit jobs."""
    parser.add_argument("--wait", action="store_true", help="wait and print the table")
    parser.add_argument(
        "--snapshot", action="store_true", help="run from a copy of the code as it is now"
    )
    add_cluster(parser)


def add_cells(parser: argparse.ArgumentParser, *, one: bool) -> None:
    """Add the options that select one cell, or some cells, of the table."""
    parser.add_argument("--row", required=one, help="a row's key, such as vit_b")
    parser.add_argument("--arm", required=one, help="an arm's name, such as DyT")
    default = "its first" if one else "all"
    parser.add_argument(
        "--value", help=f"a value that a search tries, such as 0.5 (default: {default})"
    )
    parser.add_argument("--seed", type=int, help=f"a seed of the table (default: {default})")


def selected_cells(given: argparse.Namespace, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that have the row, arm, value and seed on the command line.

    Raises:
        ValueError: for a name, value or seed that none of the cells has.
    """
    found = list(cells)
    for option in ("row", "arm"):
        if (name := getattr(given, option)) is not None:
            known = dict.fromkeys(getattr(cell, option) for cell in found)
            name = match_name(name, known, f"{option} of {given.table}")
            found = [cell for cell in found if getattr(cell, option) == name]
    if given.value is not None:
        values = dict.fromkeys(cell.value for cell in found if cell.value)
        found = [cell for cell in found if cell.value == label_of_text(given.value)]
        if not values or not found:
            tried = ", ".join(values) or "none, because this cell has no search"
            raise ValueError(f"unknown value {given.value}; known: {tried}")
    if given.seed is not None:
        seeds = dict.fromkeys(cell.seed for cell in found)
        found = [cell for cell in found if cell.seed == given.seed]
        if not found:
            raise ValueError(f"unknown seed {given.seed}; known: {', '.join(map(str, seeds))}")
    return found


def selected_runs(
    given: argparse.Namespace, cells: Sequence[Cell], runs: Sequence[PlannedRun]
) -> list[PlannedRun]:
    """Return the runs of the selected cells; without a selection all, those of needs included.

    Raises:
        ValueError: as ``selected_cells``.
    """
    if all(getattr(given, option) is None for option in ("row", "arm", "value", "seed")):
        return list(runs)
    selected = {cell.run for cell in selected_cells(given, cells)}
    return [planned for planned in runs if planned.run in selected]
