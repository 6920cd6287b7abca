"""Report over all tables: summary files, the page, warnings, curves, refusals."""

import csv
import html
import io
import json
import math
import re
import shutil
import statistics
import subprocess

import pytest

from matched.files import write_json
from matched.report import curves, svg
from matched.report import page as report_page
from matched.report import summary as report_summary
from matched.report.collect import collect
from matched.site import Site

MEASURED = {"LN": (80.123456789012, 81.987654321098), "DyT": (82.000000000001, 84.7)}


def page(project):
    return (project.root / "results/report/index.html").read_text(encoding="utf-8")


def text_of(markup):
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def summary(project, suffix):
    return (project.root / f"results/summary.{suffix}").read_text(encoding="utf-8")


def records(project):
    return json.loads(summary(project, "json"))


def finish_all(project, model="small"):
    for norm, values in MEASURED.items():
        for seed, value in enumerate(values):
            project.finish(f"{model}.{norm}.{seed}", top1=value)


def log_losses(directory, losses, **more):
    lines = [{"step": 10 * (i + 1), "epoch": 1.0, "loss": loss} for i, loss in enumerate(losses)]
    lines += [{"step": 10 * len(losses), "epoch": 1.0, "evaluation": {"top1": 1.0}, **more}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text, encoding="utf-8")


# --- numbers


def test_report_numbers_equal_those_of_result_json(project):
    finish_all(project)
    project.cli("report")
    from_csv = list(csv.DictReader(io.StringIO(summary(project, "csv"))))
    shown = {float(value) for value in re.findall(r'data-value="([^"]+)"', page(project))}
    cells = {(record["row"], record["arm"]): record for record in records(project)}
    assert len(cells) == len(from_csv) == 4
    for arm, seeds in MEASURED.items():
        results = [
            project.json(project.directory(f"small.{arm}.{seed}") / "result.json")["metrics"]
            for seed in range(len(seeds))
        ]
        mean = statistics.fmean(result["top1"] for result in results)
        line = next(one for one in from_csv if (one["row"], one["arm"]) == ("small", arm))
        assert cells["small", arm]["mean"] == float(line["mean"]) == mean
        assert mean in shown
    assert cells["small", "DyT"]["delta"] == pytest.approx(2.294444445, abs=1e-8)
    assert cells["small", "DyT"]["paper_delta"] == 0.2
    assert cells["small", "DyT"]["publication"] == "first"


def test_report_summary_files_have_the_same_rows(project):
    finish_all(project)
    project.cli("report", "--summary")
    assert not (project.root / "results/report").exists()
    markdown = [line for line in summary(project, "md").splitlines() if line.startswith("| Venue")]
    latex = [line for line in summary(project, "tex").splitlines() if line.startswith("Venue")]
    assert len(markdown) == len(latex) == len(records(project)) == 4
    assert "| DyT | 83.4 ± 1.9 | +2.3 | 82.5 | +0.2 | 2/2 | yes |" in markdown[1]
    assert latex[1].startswith(r"Venue 2025, Table 1 & smoke & Small\_1 & top-1 \% & DyT & 83.4")


def test_report_scales_are_separate_rows(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),"
        " scale('mini', seeds=(0,), small=Run(task='tiny:train', config=Config(epochs=2)))))"
    )
    project.finish("small.LN.0", top1=80.0)
    project.cli("report")
    assert {record["scale"] for record in records(project)} == {"smoke"}
    assert "matched submit table1 --scale mini" in text_of(page(project))
    project.cli("report", "--scale", "mini")
    assert records(project) == []


def test_report_counts_runs_that_tables_share_once(project):
    table = "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))"
    project.recipe(table)
    project.recipe(table, name="second/table01")
    project.finish("small.LN.0", top1=80.0)
    assert "2 tables with 2 runs: 1 done," in project.cli("report")


# --- what the page shows


def nav_link(project, name):
    links = [line for line in page(project).splitlines() if line.startswith(f'<a href="#{name}"')]
    (link,) = links
    return link


def test_report_marks_no_table_red_for_runs_that_are_missing(project):
    """A table with a single finished run, which another table may share, has no problem."""
    project.finish("small.LN.0", top1=80.0)
    project.cli("report")
    assert "attention" not in nav_link(project, "table1.smoke")
    assert 'class="problem"' not in page(project)
    assert page(project).count('class="incomplete"') == 4
    project.finish("small.LN.1", top1=math.nan)
    project.cli("report")
    assert 'class="attention"' in nav_link(project, "table1.smoke")


def test_report_hides_rows_after_the_first_until_asked(project, monkeypatch):
    monkeypatch.setattr(report_page, "FIRST_ROWS", 3)
    monkeypatch.setattr(report_page, "LISTED", 5)
    finish_all(project)
    project.finish("large.DyT.1", outcome="failed")
    project.cli("report")
    shown = page(project)
    assert '<body data-first-rows="3">' in shown
    hidden = shown.count('data-scale="smoke" hidden')
    assert hidden == 1  # of all results; the table of two rows is whole
    assert "<noscript><style>tr[hidden]" in shown
    listed = re.findall(r"<tr><td>(\w+ · \w+ · seed \d)</td>", shown)
    assert len(listed) == 5 + 1 and listed[-1] == "large · DyT · seed 1"  # the damaged one
    assert "Not listed: 2 more runs, of which none has failed" in shown


def test_report_counts_have_the_right_number(project):
    project.recipe("TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=SMALL),))")
    project.finish("small.LN.0", top1=80.0)
    assert "1 table with 1 run: 1 done" in project.cli("report")
    assert "1 run: 1 done" in page(project) and "1 run with files" in page(project)


def test_report_without_results_lists_commands_and_missing_recipes(project):
    output = project.cli("report")
    assert "0 tables with 0 runs" in output
    shown = text_of(page(project))
    assert "No table has results yet" in shown
    assert "matched submit table1 --scale smoke" in shown
    assert "Earlier 2025, Table 1: The earlier table" in shown
    assert records(project) == []
    assert summary(project, "csv").startswith("publication,table,scale,")


def test_report_page_needs_no_network(project):
    finish_all(project)
    project.cli("report")
    assert not re.findall(r"https?:|//cdn|@import|url\(", page(project))
    assert "prefers-color-scheme: dark" in page(project)
    assert "@media print" in page(project)


def test_report_links_files_of_finished_runs(project):
    finish_all(project)
    project.cli("report")
    directory = project.directory("small.DyT.1").path
    for name in ("config.json", "environment.json", "result.json"):
        assert f"../../{directory.relative_to(project.root)}/{name}" in page(project)


def test_report_escapes_names_in_html_latex_and_markdown(project):
    name = "a<b>&c%d_e|f"
    paper = (project.root / "recipes/paper.toml").read_text(encoding="utf-8")
    project.write("recipes/paper.toml", paper.replace("Small_1", name))
    finish_all(project)
    project.cli("report")
    assert "a<b>" not in page(project)
    assert name in html.unescape(page(project))
    assert r"a\textless{}b\textgreater{}\&c\%d\_e\textbar{}f" in summary(project, "tex")
    assert r"| a<b>&c%d_e\|f |" in summary(project, "md")


def test_report_shows_loss_curves_of_both_arms_and_alpha(project):
    finish_all(project)
    log_losses(project.directory("small.LN.0"), [3.0, 2.0, 1.0])
    log_losses(project.directory("small.DyT.0"), [3.5, None, 1.5], alpha={"norm1": 0.5, "n2": 0.7})
    project.cli("report")
    assert 'class="line arm0"' in page(project) and 'class="line arm1"' in page(project)
    found = curves.read_curves(project.plan())
    (panel,) = found.panels
    assert [(curve.arm, curve.steps) for curve in panel.curves] == [
        ("LN", (10, 20, 30)),
        ("DyT", (10, 20, 30)),
    ]
    assert math.isnan(panel.curves[1].losses[1])
    assert [one.alphas for one in found.alphas] == [{"norm1": 0.5, "n2": 0.7}]
    assert "α of each DyT layer" in page(project)


def test_curves_are_averaged_to_few_points(project):
    finish_all(project)
    losses = [float(i) for i in range(2 * curves.MAX_POINTS)]
    log_losses(project.directory("small.LN.0"), losses)
    (panel,) = curves.read_curves(project.plan()).panels
    (curve,) = panel.curves
    assert len(curve.steps) == curves.MAX_POINTS
    assert curve.losses[0] == 0.5 and curve.steps[-1] == 10 * len(losses)


def test_svg_line_is_interrupted_at_values_that_are_not_finite():
    series = svg.Series(label="a", style=0, x=[1, 2, 3, 4], y=[1.0, math.nan, 2.0, 3.0])
    chart = svg.line_chart("t<", [series], x_label="x", y_label="y")
    (path,) = re.findall(r' d="([^"]+)"', chart)
    assert path.count("M") == 2 and path.count("L") == 1 and "nan" not in path
    assert "t&lt;" in chart


def test_svg_ticks_are_round_numbers():
    assert svg.ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert svg.ticks(3.0, 3.0) == [3.0]
    assert svg.ticks(1.0, 11.0, whole=True) == [3.0, 6.0, 9.0]
    assert svg.ticks(1.0, 2.0, whole=True) == [1.0, 2.0]
    assert svg.number(20_000) == "20k" and svg.number(-0.5) == "−0.5"


# --- warnings


def warnings(project):
    results = collect(project.root, Site(file=project.root / "site.toml"))
    return [*results.warnings, *(text for table in results.tables for text in table.warnings)]


def test_report_warns_of_mixed_commits(project):
    finish_all(project)
    assert warnings(project) == []
    for name, commit in (("small.LN.0", "a" * 40), ("small.LN.1", "a" * 40), ("small.DyT.0", "b")):
        environment = {"commit": commit, "submitted": {"commit": commit, "uncommitted": False}}
        write_json(project.directory(name) / "environment.json", environment)
    assert warnings(project) == [
        "Mixed commits: the runs were computed by aaaaaaaaaa (2 runs), b (1 run)"
    ]
    environment = {"commit": "b", "submitted": {"uncommitted": True}}
    write_json(project.directory("small.DyT.1") / "environment.json", environment)
    assert "b+ (1 run)" in warnings(project)[0]


CLAIMS = """
from matched.claims import Claim, NotWorse

CLAIMS = (Claim(statement="It holds", source="here", test=NotWorse(tables=("table1",))),)
"""


def test_report_warns_of_mixed_hardware(project):
    for norm, hardware in (("LN", "a CPU"), ("DyT", "a GPU")):
        for seed in (0, 1):
            project.finish(f"small.{norm}.{seed}", top1=80.0 + seed, hardware=hardware)
    found = warnings(project)
    assert found[0] == (
        "Different hardware: small, DyT, seed 0: a CPU against a GPU; this pair is not part of Δ."
    )
    assert found[2:] == ["Mixed hardware: the runs were computed on a CPU (2 runs), a GPU (2 runs)"]
    results = collect(project.root, Site(file=project.root / "site.toml"))
    (entry,) = (e for e in results.tables[0].summary.entries if (e.row, e.arm) == ("small", "DyT"))
    assert entry.delta is None and entry.matched == "yes"
    project.write("recipes/claims.py", CLAIMS)
    project.cli("report")
    assert f"All tables of smoke scale: {found[2]}" in text_of(page(project))
    project.finish("small.DyT.0", top1=80.0, hardware="a CPU")
    assert len(warnings(project)) == 2, "the pair of seed 1, and the table"


def test_report_warns_of_runs_of_another_recipe_version(project):
    finish_all(project)
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))")
    (warning,) = warnings(project)
    assert warning.startswith("2 finished runs of no table here")
    project.cli("report")
    assert warning in text_of(page(project)).replace("&amp;", "&")
    assert warning in summary(project, "md")


def test_report_warns_of_damaged_failed_and_unmatched_runs(project):
    finish_all(project)
    finish_all(project, "large")
    (project.directory("small.LN.0") / "result.json").write_text("{")
    write_json(
        project.directory("large.DyT.0") / "fingerprint.json", {"weights": "x", "batches": ["b"]}
    )
    output = project.cli("report")
    assert "1 damaged, 1 not matched" in output
    shown = text_of(page(project))
    assert "NOT MATCHED: large, DyT, seed 0" in shown
    assert "Damaged: small · LN · seed 0" in shown
    problems = re.findall(r'<tr data-scale="smoke" class="problem">', page(project))
    assert len(problems) == 2


def test_report_warns_of_metrics_that_are_not_numbers(project):
    finish_all(project)
    project.finish("small.LN.0", top1=math.nan)
    assert warnings(project) == ["Not a number: top1 of small · LN · seed 0 is nan"]
    project.cli("report")
    assert records(project)[0]["mean"] is None
    assert "nan" in summary(project, "csv")


def test_report_shows_diverged_runs(project):
    project.finish("small.LN.0", top1=80.0)
    project.finish("small.DyT.0", outcome="diverged", top1=20.0)
    project.finish("small.DyT.1", outcome="diverged", top1=22.0)
    assert "1 done, 2 diverged" in project.cli("report")
    dyt = next(one for one in records(project) if one["arm"] == "DyT" and one["row"] == "small")
    assert (dyt["seeds_diverged"], dyt["mean"]) == (2, 21.0)
    assert "→ diverged" in page(project)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{\n{}\n", ", line 1, is damaged"),
        ('{"step": "a", "loss": 1}\n', ": step 'a' has values that are not numbers"),
        ('{"step": 1, "alpha": {"norm": "x"}}\n', ": step 1 has values that are not numbers"),
    ],
)
def test_report_names_damaged_curves(project, text, fault):
    finish_all(project)
    (project.directory("small.LN.0") / "metrics.jsonl").write_text(text)
    project.cli("report")
    assert re.search(rf"Curve left out: \S+metrics.jsonl{fault}", text_of(page(project)))


# --- pictures of needs


def test_gallery_shows_the_picture_of_a_need(project):
    project.recipe(
        "PRE = Run(task='tiny:train', config=Config(model='large'))\n"
        "TUNED = Run(task='tiny:train', config=Config(model='small'), needs={'pretrained': PRE})\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=TUNED),))"
    )
    picture = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xaeB`\x82"
    for name, details in (("large.LN.0", {"picture": "grid.png"}), ("small.LN.0", {})):
        directory = project.finish(name, top1=80.0)
        directory.write_result({"outcome": "done", "metrics": {"top1": 80.0}, "details": details})
        (directory / "grid.png").write_bytes(picture)
    project.cli("report")
    copy = project.root / "results/report/table1.smoke/small.LN.seed0.png"
    assert copy.read_bytes() == picture
    assert 'src="table1.smoke/small.LN.seed0.png"' in page(project)


# --- refusals, and how it is run


def test_report_refuses_unknown_scales_and_tables(project):
    assert "unknown scale: 'tiny'" in project.mistake("report", "--scale", "tiny")
    assert "unknown table: 'table9'" in project.mistake("report", "--tables", "table9")
    assert "unknown data of the tables: 'x'" in project.mistake("report", "--set", "data=x")


def test_report_names_a_results_folder_that_is_not_writable(project, read_only):
    finish_all(project)
    (project.root / "results").mkdir()
    read_only(project.root / "results")
    assert str(project.root / "results") in project.mistake("report")


def test_report_needs_no_torch(project):
    finish_all(project)
    assert "Written:" in project.compute("report")  # where importing torch is an error


CHROMIUM = shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
def test_report_script_runs_in_a_browser(project):
    finish_all(project)
    project.cli("report")
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    profile = f"--user-data-dir={project.root / 'profile'}"
    address = (project.root / "results/report/index.html").as_uri()
    process = subprocess.run(
        [*browser, profile, address], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<output>4 of 4 rows</output>" in process.stdout


def test_csv_of_the_summary_has_line_feeds_only():
    columns = report_summary.COLUMNS
    text = report_summary._csv([{columns[0]: "a, b"}, {columns[-1]: 0.5}])
    commas = "," * (len(columns) - 1)
    assert text == f'{",".join(columns)}\n"a, b"{commas}\n{commas}0.5\n'
