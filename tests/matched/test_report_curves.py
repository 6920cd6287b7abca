"""Report: thinned curves, the axes of a chart, and the formats of the summary."""

import json
import math
import re
from types import SimpleNamespace

import pytest

from matched.report import curves, summary
from matched.report.svg import HEIGHT, WIDTH, Series, _Axes, line_chart, number, ticks


@pytest.mark.parametrize("count", [1, 99, 100, 101, 200, 250, 1001])
def test_thinned_curve_has_means_at_the_last_steps(count):
    steps = [10 * (i + 1) for i in range(count)]
    losses = [float(i * i) for i in range(count)]
    size = -(-count // 100)
    found_steps, found = curves._thinned(steps, losses)
    assert len(found) == len(found_steps) == -(-count // size) <= 100
    assert found_steps[-1] == steps[-1]
    assert found_steps[0] == 10 * size and found[0] == pytest.approx(sum(losses[:size]) / size)
    left = count % size or size
    assert found[-1] == pytest.approx(sum(losses[-left:]) / left)


def test_read_file_has_losses_and_the_last_alphas(tmp_path):
    lines = [
        {"step": 1, "loss": 3},
        {"step": 2, "loss": None},
        {"step": 2, "alpha": {"a": 0.5}, "evaluation": {}},
        {"step": 3, "loss": 2.5, "alpha": {}},
        {"step": 4, "alpha": {"a": 0.25, "b": 1}},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps, losses, alphas = curves._read_file(file)
    assert steps == [1, 2, 3] and alphas == {"a": 0.25, "b": 1}
    assert (losses[0], losses[2]) == (3.0, 2.5) and math.isnan(losses[1])


def test_panel_has_each_curve_and_a_cells_first_alphas(tmp_path):
    found = curves.TableCurves()
    files = []
    for seed, text in enumerate(
        ('{"step": 1, "loss": 2, "alpha": {"a": 1}}\n', '{"step": 1}\n', "{damaged\n{}\n")
    ):
        file = tmp_path / f"{seed}.jsonl"
        file.write_text(text)
        files.append((SimpleNamespace(arm="DyT", seed=seed), file))
    curves._add_panel(found, "small", "", files)
    again = [(SimpleNamespace(arm="DyT", seed=0), files[0][1])]
    curves._add_panel(found, "small", "pretrained", again)
    assert [(panel.need, len(panel.curves)) for panel in found.panels] == [
        ("", 1),
        ("pretrained", 1),
    ]
    assert [(a.row, a.arm, a.seed, a.alphas) for a in found.alphas] == [
        ("small", "DyT", 0, {"a": 1})
    ]
    assert len(found.damaged) == 1 and "2.jsonl" in found.damaged[0]


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 1, False, [0, 0.25, 0.5, 0.75, 1]),
        (0.13, 0.87, False, [0.2, 0.4, 0.6, 0.8]),
        (0, 100, True, [0, 25, 50, 75, 100]),
        (0, 3, True, [0, 1, 2, 3]),
        (0, 6, False, [0, 2, 4, 6]),
        (0, 18, False, [0, 5, 10, 15]),
        (0, 30, True, [0, 10, 20, 30]),
        (0, 10, True, [0, 3, 6, 9]),
        (-1, 1, False, [-1, -0.5, 0, 0.5, 1]),
        (5, 5, False, [5]),
        (6, 5, False, [6]),
    ],
)
def test_ticks_are_round_and_include_the_ends(low, high, whole, expected):
    assert ticks(low, high, whole=whole) == pytest.approx(expected)


def test_axes_put_small_values_left_and_below():
    axes = _Axes(x_low=0, x_high=10, y_low=-1, y_high=1)
    left, right = axes.x(0), axes.x(10)
    assert 0 < left < right < WIDTH and axes.x(5) == pytest.approx((left + right) / 2)
    below, above = axes.y(-1), axes.y(1)
    assert HEIGHT > below > above > 0 and axes.y(0) == pytest.approx((below + above) / 2)
    flat = _Axes(x_low=3, x_high=3, y_low=2, y_high=2)
    assert (flat.x(3), flat.y(2)) == (left, below)


def test_chart_has_room_for_every_series():
    """The axes include the largest and the smallest values of all of them."""
    pairs = [([1, 2], [0.0, 1.0]), ([3, 4], [math.nan, 9.0]), ([0, 2], [-5.0, math.inf])]
    series = [Series(label=str(i), style=i, x=x, y=y) for i, (x, y) in enumerate(pairs)]
    for points in (False, True):
        chart = line_chart("t", series, x_label="x", y_label="y", points=points)
        pattern = r'cx="(.*?)" cy="(.*?)"' if points else r"[ML]([\d.-]+) ([\d.-]+)"
        found = [(float(x), float(y)) for x, y in re.findall(pattern, chart)]
        assert len(found) == 4
        assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in found)
        assert len({x for x, _ in found}) == len({y for _, y in found}) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (-0.5, "−0.5"),
        (1500, "1500"),
        (9999, "9999"),
        (10_000, "10k"),
        (20_500, "20.5k"),
        (-20_000, "−20k"),
        (0.123456, "0.1235"),
        (0, "0"),
    ],
)
def test_number_of_a_tick(value, text):
    assert number(value) == text


ROW = ("Table 1", "smoke", "A_b & c", "top-1 %", "DyT", "82.5", "+0.2", "82.3", "—", "3/3", "yes")


def test_summary_aligns_numbers_in_markdown():
    results = SimpleNamespace(
        tables=[SimpleNamespace(name="table1", warnings=["one"])], warnings=["all"]
    )
    lines = summary._markdown(results, [ROW]).splitlines()
    assert lines[:2] == ["### Results of all tables", ""]
    assert lines[3] == "| " + " | ".join([":---"] * 5 + ["---:"] * 5 + [":---"]) + " |"
    assert lines[4].startswith("| Table 1 | smoke | A_b & c | top-1 % | DyT | 82.5 | +0.2 |")
    assert lines[5:] == ["", "- all", "- table1: one"]
    empty = SimpleNamespace(tables=[], warnings=[])
    assert summary._markdown(empty, []).endswith("\n\nNo table has results yet.\n")


def test_summary_in_latex_is_a_longtable_with_escapes():
    assert summary._latex([ROW]).splitlines() == [
        r"% \usepackage{longtable,booktabs}",
        r"\begin{longtable}{lllllrrrrrl}",
        r"\caption{Results of all tables; $\Delta$ is each arm minus the baseline.}\\",
        r"\toprule",
        r"table & scale & model & metric & arm & ours & $\Delta$ & paper & paper $\Delta$ & runs & "
        r"matched \\",
        r"\midrule",
        r"\endhead",
        r"Table 1 & smoke & A\_b \& c & top-1 \% & DyT & 82.5 & +0.2 & 82.3 & --- & 3/3 & yes \\",
        r"\bottomrule",
        r"\end{longtable}",
    ]


def test_columns_of_the_summary_are_those_of_a_tables_records():
    """Programs read summary.csv by these names."""
    assert summary._csv([]) == (
        "publication,table,scale,data,row,model,arm,metric,unit,direction,mean,std,"
        "seeds_with_value,seeds_planned,seeds_diverged,delta,paper,paper_delta,matched,best,states,"
        "changes,signatures\n"
    )


def test_summary_json_has_no_numbers_that_are_not_finite():
    record = {"mean": math.nan, "std": math.inf, "delta": 0.5, "arm": "α", "best": None}
    text = summary._json([record])
    assert json.loads(text) == [{"mean": None, "std": None, "delta": 0.5, "arm": "α", "best": None}]
    assert "α" in text and text.endswith("]\n")
