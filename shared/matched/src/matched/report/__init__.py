"""Report over all tables: results, curves and pictures on one page, and summary files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matched.report import figure_list
from matched.report.claimed_tables import load_claims
from matched.report.collect import Results, collect
from matched.report.figure_list import DrawnFigure
from matched.report.page import write_page
from matched.report.summary import write_summary
from matched.report.verdicts import judge_claims
from matched.site import Site
from matched.status import State
from matched.wording import counted


def write_report(
    project: Path,
    site: Site,
    *,
    scale: str | None,
    tables: Sequence[str],
    arms: Sequence[str] = (),
    changes: Sequence[str] = (),
    page: bool = True,
) -> Iterator[str]:
    """Write results/summary.* and results/report/; yield the lines that the command prints.

    Args:
        scale: only this one; None for all.
        tables: names of tables or recipe files; empty for all tables of the project.
        arms: extra arms that are shown where a table can have them.
        changes: "data=name" for the results on that data, in the tables that have it.
        page: False writes the summary only.

    Raises:
        ValueError: for an unknown table or scale, or a recipe that is refused.
        OSError: if the results folder cannot be written.
    """
    folder = project / "results"
    results = collect(
        project,
        site,
        scale=scale,
        names=tables,
        arms=arms,
        changes=changes,
        pictures=folder / "report" if page else None,
    )
    scorecard = judge_claims(load_claims(project), results)
    summary = write_summary(results, folder / "summary")
    yield _counts(results)
    if page:
        scales = list(dict.fromkeys(table.scale.name for table in results.tables))
        drawn = [] if tables else _draw_figures(project, site, scales, folder / "report")
        yield f"Written: {write_page(results, scorecard, drawn, folder / 'report')}"
    yield f"Written: {folder / 'summary'}.{{{','.join(path.suffix[1:] for path in summary)}}}"


def _draw_figures(
    project: Path, site: Site, scales: Sequence[str], folder: Path
) -> list[DrawnFigure]:
    """Draw all figures to the page's folder, if the project has any."""
    if not figure_list.available(project):
        return []
    from matched.report.figures import draw_all  # matplotlib loads for a second

    return draw_all(project, site, scales, folder / "figures")


def _counts(results: Results) -> str:
    # Tables share runs.
    states = {p.run.signature: p.status.state for t in results.tables for p in t.plan.runs}
    shown = (State.DONE, State.DIVERGED, State.FAILED, State.DAMAGED)
    counts = {str(state): list(states.values()).count(state) for state in shown}
    counts["not matched"] = sum(table.unmatched for table in results.tables)
    texts = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{counted(len(results.tables), 'table')} with {counted(len(states), 'run')}: {texts}"
