"""Results of all tables: which are run, what their tables count, and warnings word for word."""

import math

import pytest

from matched.claims import Above, CellKey, Claim
from matched.files import write_json
from matched.report import figure_list, figures, write_report
from matched.report.claimed_tables import claimed_tables
from matched.report.collect import collect
from matched.site import Site
from matched.status import Failure

TWO_SCALES = (
    "PAPER = Run(task='tiny:train', config=Config(model='small', epochs=9))\n"
    "TABLE = Table(arms=ARMS, scales=("
    "scale(seeds=(0,), small=SMALL, large=LARGE), scale('paper', seeds=(0,), small=PAPER)))"
)


@pytest.fixture
def two_scales(project):
    project.recipe(TWO_SCALES)
    return project


def collected(project, **options):
    return collect(project.root, Site(file=project.root / "site.toml"), **options)


def test_collect_divides_scales_into_those_with_and_without_runs(two_scales):
    two_scales.finish("small.LN.0", top1=80.0)
    results = collected(two_scales)
    (table,) = results.tables
    assert (table.publication, table.name) == ("first", "table1.smoke")
    assert [(recipe.name, scale.name) for recipe, scale in results.not_run] == [("table1", "paper")]
    assert results.without_recipe == (("Earlier 2025, Table 1", "The earlier table"),)
    assert (results.project, results.warnings) == (two_scales.root, ())
    of_paper = collected(two_scales, scale="PAPER")
    assert not of_paper.tables and [scale.name for _, scale in of_paper.not_run] == ["paper"]
    assert collected(two_scales, names=["table1"]).without_recipe == ()


def test_collect_includes_recipe_files_that_claims_or_figures_name(two_scales):
    for name in ("own_claimed", "own_drawn"):
        two_scales.recipe(
            "METRICS = (Metric(key='top1', label='top-1', direction='higher'),)\n"
            "SCALE = replace(scale(seeds=(0,), small=SMALL), metrics=METRICS)\n"
            "TABLE = Table(arms=ARMS, scales=(SCALE,))",
            name,
        )
    two_scales.write(
        "recipes/claims.py",
        "from matched.claims import Claim, Falls\n"
        "TEST = Falls(tables=('recipes/own_claimed.py',), along='rows')\n"
        "CLAIMS = (Claim(statement='s', source='here', test=TEST),)\n",
    )
    two_scales.write(
        "recipes/first/figures.py",
        "from matched.figure import LossCurves, Source\n"
        "SOURCE = Source(title='A', recipe='recipes/own_drawn.py', row='small')\n"
        "FIGURES = {1: LossCurves(caption='Losses', sources=(SOURCE,))}\n",
    )
    found = [(recipe.name, scale.name) for recipe, scale in collected(two_scales).not_run]
    assert found == [
        *(("table1", "smoke"), ("table1", "paper"), ("own_drawn", "smoke")),
        ("own_claimed", "smoke"),
    ]


def test_collect_outside_of_projects_finds_nothing(two_scales, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    results = collect(elsewhere, Site(file=elsewhere / "site.toml"))
    assert (results.tables, results.not_run, results.without_recipe) == ((), (), ())


def test_collect_counts_runs_by_state_and_unmatched_cells(two_scales):
    two_scales.finish_seeds("small", ln=(80.0,), dyt=(81.0,))
    two_scales.finish_seeds("large", ln=(80.0,), dyt=(81.0,))
    other = two_scales.directory("small.DyT.0")
    (other / "fingerprint.json").write_text('{"weights": "x", "batches": ["b"]}')
    (two_scales.directory("large.LN.0") / "result.json").write_text("{")
    (table,) = collected(two_scales).tables
    counts = [table.count("done"), table.count("new", "damaged"), table.count("done", "damaged")]
    assert (counts, table.unmatched) == ([3, 1, 4], 1)


UNPLANNED = (
    "of no table here: of another version of a recipe, of changed fields (--set), of an added arm "
    "(--with), or of a table of your own: "
)


def test_collect_warns_of_finished_runs_that_no_table_has(two_scales):
    folder = two_scales.root / "runs" / "tiny.train"
    for name in ("b" * 12, "a" * 12):
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text("{}")
    (folder / ("c" * 12)).mkdir()
    (warning,) = collected(two_scales).warnings
    assert warning == f"2 finished runs {UNPLANNED}{'a' * 12}, {'b' * 12}"
    for part in ({"scale": "smoke"}, {"names": ["table1"]}):
        assert collected(two_scales, **part).warnings == (), "of part of the tables"


def test_needs_may_be_computed_on_other_hardware(two_scales):
    two_scales.recipe(
        "NEEDING = replace(SMALL, needs={'trained': LARGE})\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=NEEDING),))"
    )
    for model, hardware in (("large", "a CPU"), ("small", "a GPU")):
        for norm in ("LN", "DyT"):
            two_scales.finish(f"{model}.{norm}.0", top1=80.0, hardware=hardware)
    (table,) = collected(two_scales).tables
    assert table.warnings == ()


def test_commits_of_unfinished_runs_are_not_compared(two_scales):
    for name, commit in (("small.LN.0", "a"), ("small.DyT.0", "b")):
        directory = two_scales.finish(name, top1=80.0)
        write_json(directory / "environment.json", {"commit": commit})
    (directory / "result.json").unlink()
    directory.write_failure(Failure(reason="why"))
    (table,) = collected(two_scales).tables
    signatures = [two_scales.directory(f"small.{norm}.0").run.signature for norm in ("LN", "DyT")]
    assert table.commits == dict(zip(signatures, ("a", "b"), strict=True))
    assert table.warnings == ("Failed: small · DyT · seed 0: why",)


def test_collect_warns_of_numbers_that_are_not_finite(two_scales):
    two_scales.finish("small.LN.0", top1=math.inf)
    two_scales.finish("small.DyT.0", outcome="diverged", top1=math.nan)
    (table,) = collected(two_scales).tables
    assert table.warnings == ("Not a number: top1 of small · LN · seed 0 is inf",)


DIGITS = ["data=('digits',)"]


def test_data_of_any_table_may_be_asked_for(two_scales):
    """The first table has a scale on it; the table after it has none."""
    two_scales.recipe(
        "def on(data):\n"
        "    return Run(task='tiny:train', config=Config(model='small', data=data))\n\n\n"
        "OTHER = scale(seeds=(0,), small=on(('digits',)))\n"
        "FIRST = replace(scale(seeds=(0,), small=on(())), on_data={str(('digits',)): OTHER})\n"
        "TABLE = Table(arms=ARMS, scales=(FIRST,))"
    )
    two_scales.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))", "second/table01")
    results = collected(two_scales, changes=DIGITS)
    assert [recipe.name for recipe, _ in results.not_run] == ["table1"]
    cells = [CellKey(table=name, row="small", arm="DyT") for name in ("table1", "early-table1")]
    claim = Claim(statement="s", source="here", test=Above(cells=tuple(cells), metric="top1"))
    (claimed,) = claimed_tables(
        [claim],
        two_scales.root,
        Site(file=two_scales.root / "site.toml"),
        scale="smoke",
        cluster="local",
        changes=DIGITS,
    )
    assert claimed.plan.recipe.changes == {"data": ("digits",)}


def test_write_report_draws_figures_for_all_tables_only(two_scales, monkeypatch):
    drawn = []

    def draw_all(project, site, scales, folder):
        drawn.append((project, scales, folder))
        return []

    monkeypatch.setattr(figures, "draw_all", draw_all)
    monkeypatch.setattr(figure_list, "available", lambda project: {"fig1": None})
    monkeypatch.setattr(figure_list, "own_recipes", lambda project: [])
    two_scales.finish("small.LN.0", top1=80.0)
    site = Site(file=two_scales.root / "site.toml")
    for tables in (("table1",), ()):
        list(write_report(two_scales.root, site, scale=None, tables=tables))
    folder = two_scales.root / "results" / "report" / "figures"
    assert drawn == [(two_scales.root, ["smoke"], folder)]


def test_write_report_counts_all_tables_and_names_its_files(two_scales):
    two_scales.finish("small.LN.0", top1=80.0)
    two_scales.finish("small.DyT.0", outcome="diverged", top1=1.0)
    (two_scales.finish("large.LN.0", top1=80.0) / "result.json").write_text("{")
    site = Site(file=two_scales.root / "site.toml")
    folder = two_scales.root / "results"
    counts, page, summary = write_report(two_scales.root, site, scale=None, tables=())
    assert counts == ("1 table with 4 runs: 1 done, 1 diverged, 0 failed, 1 damaged, 0 not matched")
    assert page == f"Written: {folder}/report/index.html"
    assert summary == f"Written: {folder}/summary.{{md,csv,tex,json}}"
    lines = list(write_report(two_scales.root, site, scale="paper", tables=(), page=False))
    assert lines == [
        "0 tables with 0 runs: 0 done, 0 diverged, 0 failed, 0 damaged, 0 not matched",
        summary,
    ]
