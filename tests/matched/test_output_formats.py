"""Output formats of a summary table: terminal, Markdown, CSV and LaTeX."""

import csv
import io
import re

from matched import table_formats
from matched.status import Failure
from matched.summary_table import summary_table


def records(project):
    text = table_formats.to_csv(summary_table(project.plan()))
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_line_per_row_metric_and_arm(project):
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, None))
    lines = records(project)
    assert [(r["row"], r["arm"]) for r in lines] == [
        (key, arm) for key in ("small", "large") for arm in ("LN", "DyT")
    ]
    ln, dyt, *_ = lines
    assert (float(ln["mean"]), round(float(ln["std"]), 4), ln["delta"]) == (80.5, 0.7071, "")
    # The baseline's second seed has no partner yet and does not count in the delta.
    assert (float(dyt["mean"]), dyt["std"], float(dyt["delta"])) == (82.0, "", 2.0)
    assert (dyt["seeds_with_value"], dyt["seeds_planned"], dyt["states"]) == ("1", "2", "done new")
    assert (float(dyt["paper"]), float(dyt["paper_delta"])) == (82.5, 0.2)
    assert (ln["scale"], ln["data"], ln["table"], ln["unit"]) == ("smoke", "none", "table1", "%")
    plan = project.plan()
    assert set(ln["signatures"].split()) <= {planned.run.signature for planned in plan.runs}


def test_markdown_is_a_table(project):
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, 84.0))
    lines = table_formats.to_markdown(summary_table(project.plan())).splitlines()
    assert lines[0] == "### Venue 2025, Table 1 · smoke scale"
    grid = [line for line in lines if line.startswith("|")]
    assert len(grid) == 4 and len({line.count("|") for line in grid}) == 1
    assert lines[-1].startswith("- ")


def test_latex_is_escaped_and_balanced(project):
    for seed in (0, 1):
        project.finish(f"small.LN.{seed}", outcome="diverged", top1=60.0)
    failed = project.directory("small.DyT.0")
    failed.prepare()
    failed.write_failure(Failure(reason=r"C:\data {x} costs 5$ & 3% of #1 ~ a_b^2"))
    text = table_formats.to_latex(summary_table(project.plan()))
    assert r"Small\_1 & 60.0 $\pm$ 0.0 $\rightarrow$ diverged & failed & --- &" in text
    assert r"Two models \& two norms." in text
    assert r"C:\textbackslash{}data \{x\} costs 5\$ \& 3\% of \#1" in text
    assert r"\textasciitilde{} a\_b\textasciicircum{}2" in text
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) == 1


def test_warnings_of_a_task_are_notes(project):
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, 84.0))
    directory = project.directory("small.DyT.1")
    warning = "10 images are too few to tell much"
    result = {**directory.result(), "details": {"warnings": [warning]}}
    directory.write_result(result)
    assert project.cli("table", "table1").count(warning) == 1
    text = (project.root / "results/table1.smoke.md").read_text(encoding="utf-8")
    assert f"- Warning: small · DyT · seed 1: {warning}\n" in text


def test_table_command_prints_the_table_and_writes_three_files(project):
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, 84.0))
    output = project.cli("table", "table1")
    assert "80.5 ± 0.7" in output and "results/table1.smoke.{md, csv, tex}" in output
    for suffix in ("md", "csv", "tex"):
        path = project.root / f"results/table1.smoke.{suffix}"
        assert "Small" in path.read_text(encoding="utf-8")
    assert sorted(path.name for path in (project.root / "results").iterdir()) == [
        "table1.smoke.csv",
        "table1.smoke.md",
        "table1.smoke.tex",
    ]
