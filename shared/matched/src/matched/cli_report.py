"""The commands ``matched report``, ``claims`` and ``figure``, which load their libraries late."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from matched import checkout, projects, site
from matched.preflight import CLUSTERS
from matched.table import SCALES
from matched.wording import match_name

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause the search for garbage, which is a sixth of the time while a large plan is created."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def add_commands(commands: Commands) -> None:
    """Add the parsers of the three commands."""
    text = "write results/report/index.html and results/summary.* over all tables"
    report = commands.add_parser("report", help=text, description=text)
    report.set_defaults(do=_report)
    report.add_argument("--scale", help=f"{', '.join(SCALES)} (default: all)")
    report.add_argument(
        "--tables", nargs="+", default=[], metavar="TABLE", help="tables or recipe files"
    )
    _add_arms(report, "show")
    _add_changes(report)
    report.add_argument("--summary", action="store_true", help="write results/summary.* only")
    text = "show the tables that the claims need, what they have to do, and the verdicts so far"
    claims = commands.add_parser("claims", help=text, description=text)
    claims.set_defaults(do=_claims)
    claims.add_argument("--scale", default="smoke", help=f"{', '.join(SCALES)} (default smoke)")
    claims.add_argument("--cluster", default="local", help="as for submit (default local)")
    _add_arms(claims, "count")
    _add_changes(claims)
    claims.add_argument(
        "--names", action="store_true", help="only print the tables, as arguments of make"
    )
    text = "draw a figure of a paper from the results of its runs"
    figure = commands.add_parser("figure", help=text, description=text)
    figure.set_defaults(do=_figure)
    figure.add_argument("figure", help="such as fig2 or iclr-fig1")
    figure.add_argument("--scale", default="smoke", help=f"{', '.join(SCALES)} (default smoke)")
    figure.add_argument("--needs", action="store_true", help="only print the recipes it needs")


def _add_arms(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "--with",
        dest="extra_arms",
        action="append",
        default=[],
        metavar="ARM",
        help=f"{verb} this arm of recipes/extra_arms.py too, such as Derf, where a table can have "
        "it",
    )


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="data=NAME",
        help="the tables on this data, such as data=cifar100; others are left out",
    )


@garbage_collection_paused()
def _report(given: argparse.Namespace) -> int:
    from matched.report import write_report

    project = projects.current()
    checkout.check_packages(project)
    settings = site.read(site.find(project))
    lines = write_report(
        project,
        settings,
        scale=given.scale,
        tables=given.tables,
        arms=given.extra_arms,
        changes=given.changes,
        page=not given.summary,
    )
    for line in lines:
        print(line)
    return 0


@garbage_collection_paused()
def _claims(given: argparse.Namespace) -> int:
    from matched.report import claim_texts
    from matched.report.claimed_tables import claimed_tables, load_claims
    from matched.report.collect import collect, mixed_over_tables
    from matched.report.verdicts import judge_claims

    project = projects.root()
    checkout.check_packages(project)
    scale = match_name(given.scale, SCALES, "scale")
    cluster = match_name(given.cluster, CLUSTERS, "cluster")
    settings = site.read(site.find(project))
    claims = load_claims(project)
    if not claims and not given.names:
        print("No claims: recipes/claims.py is missing or empty")
        return 0
    options = {"changes": given.changes, "arms": given.extra_arms}
    tables = claimed_tables(claims, project, settings, scale=scale, cluster=cluster, **options)
    if given.names:
        arms = given.extra_arms
        print("\n".join(claim_texts.make_arguments(table, project, arms) for table in tables))
        return 0
    results = collect(project, settings, scale=scale, **options)
    lines = (
        *claim_texts.plan_lines(tables, cluster),
        *claim_texts.verdict_lines(judge_claims(claims, results)),
        *mixed_over_tables(results.tables),
    )
    print("\n".join(lines))
    return 0


def _figure(given: argparse.Namespace) -> int:
    from matched.report import figure_list, figures

    project = projects.root()
    if given.needs:
        print("\n".join(figure_list.needed_recipes(figure_list.find(project, given.figure))))
        return 0
    checkout.check_packages(project)
    scale = match_name(given.scale, SCALES, "scale")
    drawer = figures.FigureDrawer(project, site.read(site.find(project)), scale)
    for path in drawer.draw(given.figure, project / "results" / "figures"):
        print(f"Written: {path}")
    if finding := drawer.finding(given.figure):
        print(finding)
    return 0
