"""Parts of the report's page: result rows, charts, lists of runs and their links."""

from types import SimpleNamespace

import pytest

from matched.report import page
from matched.report.collect import collect
from matched.report.curves import Curve, FinalAlphas, Panel, TableCurves
from matched.report.figure_list import DrawnFigure
from matched.report.page import Column, ResultRow
from matched.site import Site
from matched.status import Failure, RunStatus, State


@pytest.fixture
def table(project):
    """The results of table1: seed 0 of LN failed, DyT has both seeds, and Large has none."""
    failed = project.directory("small.LN.0")
    failed.prepare()
    failed.write_failure(Failure(reason="no memory"))
    project.finish("small.LN.1", top1=81.0)
    project.finish_seeds("small", dyt=(82.0, 84.0))
    (results,) = collect(project.root, Site(file=project.root / "site.toml")).tables
    return results


def test_result_rows_have_texts_and_the_numbers_behind_them(table):
    common = {"anchor": "table1.smoke", "scale": "smoke"}
    texts = ("Venue 2025, Table 1", "smoke")
    none = (None,) * 5
    assert list(page._result_rows(table)) == [
        ResultRow(
            texts=(*texts, "Small_1", "top-1 %", "LN", "81.0", "—", "82.3", "—", "1/2", ""),
            values=(*none, 81.0, None, 82.3, None, None, None),
            problem=True,
            missing=True,
            **common,
        ),
        ResultRow(
            texts=(
                *(*texts, "Small_1", "top-1 %", "DyT", "83.0 ± 1.4", "+3.0", "82.5", "+0.2"),
                *("2/2", "—"),
            ),
            values=(*none, 83.0, 3.0, 82.5, pytest.approx(0.2), None, None),
            problem=False,
            missing=False,
            **common,
        ),
        ResultRow(
            texts=(
                *(*texts, "Large", "top-1 %", "LN", "—", "—", "58.5 → diverged", "—"),
                *("0/2", ""),
            ),
            values=(*none, None, None, 58.5, None, None, None),
            problem=False,
            missing=True,
            **common,
        ),
        ResultRow(
            texts=(*texts, "Large", "top-1 %", "DyT", "—", "—", "diverged", "—", "0/2", "—"),
            values=(None,) * 11,
            problem=False,
            missing=True,
            **common,
        ),
    ]


def test_section_lists_runs_and_needs_attention(table, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LISTED", 3)
    section = page._section(table, tmp_path)
    assert section.counts == "8 runs: 4 new, 1 failed, 3 done"
    assert section.attention and section.table is table
    assert [run["title"] for run in section.runs] == [
        "small · LN · seed 0",
        "small · DyT · seed 0",
        "small · LN · seed 1",
    ]
    assert section.unlisted == 5
    assert [column for column in section.header if not column.is_number] == [
        Column(name="top-1 %", is_number=False),
        Column(name="matched", is_number=False),
    ]
    assert [column.name for column in section.header if column.is_number] == [
        "LN",
        "DyT",
        "Δ",
        "paper LN",
        "paper DyT",
        "paper Δ",
        "runs",
    ]


def test_page_has_scales_figures_and_the_time(project, monkeypatch):
    project.recipe(
        "PAPER = Run(task='tiny:train', config=Config(model='small', epochs=9))\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),"
        " scale('paper', seeds=(0,), small=PAPER), scale('mini', seeds=(0,), small=LARGE)))"
    )
    for planned in (*project.plan().runs, *project.plan(scale="paper").runs):
        planned.directory.prepare()
        planned.directory.write_result({"outcome": "done", "metrics": {"top1": 80.0}})
    monkeypatch.setattr(page.time, "strftime", lambda form: form)
    folder = project.root / "report"
    files = tuple(folder / "figures" / f"fig 1.{kind}" for kind in ("svg", "csv"))
    drawn = {"name": "fig1", "scale": "smoke", "caption": "A figure", "missing_runs": False}
    figure = DrawnFigure(**drawn, paths=files, problem="", finding="It bends.")
    results = collect(project.root, Site(file=project.root / "site.toml"))
    path = page.write_page(results, [], [figure], folder)
    assert path == folder / "index.html"
    text = path.read_text(encoding="utf-8")
    assert "Tables with runs: 2, without: 1 · written %Y-%m-%d %H:%M ·" in text
    assert '<option value="">all</option><option>smoke</option><option>paper</option></se' in text
    assert '<a href="figures/fig%201.svg">svg</a> <a href="figures/fig%201.csv">csv</a>' in text
    assert 'src="figures/fig%201.svg" alt="fig1: A figure"' in text and "<p>It bends.</p>" in text
    assert "matched submit table1 --scale mini" in text
    assert text.count('<th scope="col" class="number"') == 5 + 2 * 7


@pytest.mark.parametrize(
    ("state", "files"),
    [
        (State.NEW, ()),
        (State.RUNNING, ("config.json", "environment.json", "metrics.jsonl", "log.txt")),
        (State.FAILED, ("config.json", "environment.json", "metrics.jsonl", "log.txt")),
        (State.DONE, page.RUN_FILES),
        (State.DIVERGED, page.RUN_FILES),
    ],
)
def test_run_links_the_files_that_its_state_has(tmp_path, state, files):
    failure = Failure(reason="no memory") if state is State.FAILED else None
    planned = SimpleNamespace(
        title="small · LN · seed 0",
        status=RunStatus(state=state, failure=failure),
        run=SimpleNamespace(signature="0123456789ab"),
        directory=SimpleNamespace(path=tmp_path / "runs" / "my task" / "0123456789ab"),
    )
    table = SimpleNamespace(commits={} if state is State.NEW else {"0123456789ab": "abc+"})
    shown = page._run(table, planned, tmp_path / "results" / "report")
    assert shown == {
        "title": "small · LN · seed 0",
        "state": str(state),
        "reason": "no memory" if failure else "",
        "signature": "0123456789ab",
        "url": "../../runs/my%20task/0123456789ab" if files else "",
        "files": shown["files"],
        "commit": "abc+" if files else "—",
    }
    assert tuple(shown["files"]) == files


def test_files_of_a_finished_run():
    assert page.RUN_FILES == (
        "config.json",
        "environment.json",
        "result.json",
        "metrics.jsonl",
        "log.txt",
    )


@pytest.fixture
def drawn(monkeypatch):
    """The charts that are drawn: title, [(label, style, x, y)], and the other arguments."""
    charts = []

    def line_chart(title, series, **options):
        charts.append((title, [(s.label, s.style, list(s.x), list(s.y)) for s in series], options))
        return f"<svg>{len(charts)}</svg>"

    monkeypatch.setattr(page.svg, "line_chart", line_chart)
    return charts


def curve(arm, seed):
    return Curve(arm=arm, seed=seed, steps=(10, 20), losses=(3.0, 2.0))


LOSSES = {"x_label": "step", "y_label": "training loss"}


def test_charts_of_losses_are_grouped_by_row(table, drawn):
    curves = TableCurves(
        panels=[
            Panel(row="small", need="", curves=(curve("LN", 0), curve("DyT", 1))),
            Panel(row="large", need="", curves=(curve("LN", 0),)),
            Panel(row="small", need="pretrained", curves=(curve("DyT", 0),)),
        ],
        hidden={"small": 3},
    )
    assert page._charts(table, curves) == [
        ("Small_1", ["<svg>1</svg>", "<svg>3</svg>"], 3),
        ("Large", ["<svg>2</svg>"], 0),
    ]
    points = ([10, 20], [3.0, 2.0])
    assert drawn == [
        ("Small_1", [("LN, seed 0", 0, *points), ("DyT, seed 1", 1, *points)], LOSSES),
        ("Large", [("LN, seed 0", 0, *points)], LOSSES),
        ("Small_1 · pretrained", [("DyT, seed 0", 1, *points)], LOSSES),
    ]


def test_charts_of_alpha_count_the_layers_from_1(table, drawn):
    alphas = [
        FinalAlphas(row="small", arm="DyT", seed=0, alphas={"norm1": 0.5, "norm2": 0.7}),
        FinalAlphas(row="large", arm="DyT", seed=0, alphas={"norm": 0.1}),
        FinalAlphas(row="small", arm="DyT", seed=1, alphas={"norm1": 0.4, "norm2": 0.6}),
    ]
    assert list(page._alpha_charts(table, alphas)) == ["<svg>1</svg>", "<svg>2</svg>"]
    options = {"x_label": "DyT layer", "y_label": "α", "points": True}
    assert drawn == [
        (
            "Small_1",
            [("DyT, seed 0", 1, [1, 2], [0.5, 0.7]), ("DyT, seed 1", 1, [1, 2], [0.4, 0.6])],
            options,
        ),
        ("Large", [("DyT, seed 0", 1, [1], [0.1])], options),
    ]
