"""Consistency of recipes/paper.toml, which is typed by hand: form, range and agreement of numbers.

The file is read with decimals instead of floats, which keeps the printed digits and makes
differences exact.
"""

import itertools
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

PAPER_TOML = Path(__file__).parents[2] / "recipes" / "paper.toml"
PAPERS = tomllib.loads(PAPER_TOML.read_text(encoding="utf-8"), parse_float=Decimal)

# Each table's number of rows. ICLR table 9 lists hyper-parameters and is left out.
ROWS = {
    "cvpr2025": dict(enumerate([4, 4, 3, 4, 2, 2, 1, 2, 2, 4, 4, 4, 15, 15, 2], start=1)),
    "iclr2025": dict(enumerate([5, 4, 2, 2, 2, 8, 5, 2], start=1)) | {10: 6, 11: 3},
}
# Tables whose last column is the change from the first arm to the second.
TABLES_WITH_CHANGES = {(paper, n) for paper in ROWS for n in range(1, 7)}
# Metrics of those tables that have no printed change.
CHANGE_NOT_PRINTED = {("iclr2025", 4, "loss")}

TABLE_KEYS = {"caption", "metrics", "arms", "rows", "axes", "printed_reduction"}
ROW_KEYS = {"label", "printed_change", "unchanged_printed", "width", "depth", "head_dim", "seq_len"}
CELL_KEYS = {"lr", "alpha0", "diverged", "no_gain"}

# Metric: unit, direction, digits after the decimal point (None: variable), plausible range.
METRICS = {
    "top1": ("%", "higher", 1, 55, 90),
    "accuracy": ("%", "higher", 1, 40, 99),
    "score": ("", "higher", 3, Decimal("0.4"), Decimal("0.7")),
    "fid": ("", "lower", 1, 15, 75),
    "loss": ("", "lower", 2, Decimal("1.4"), Decimal("2.3")),
    "inference_layer": ("s", "lower", 1, Decimal("0.5"), 3),
    "inference_model": ("s", "lower", 1, 10, 20),
    "training_layer": ("s", "lower", 1, 4, 10),
    "training_model": ("s", "lower", 1, 30, 50),
    "alpha0": ("", "none", None, Decimal("0.05"), 2),
    "alpha0_attention": ("", "none", None, Decimal("0.05"), 2),
    "alpha0_other": ("", "none", None, Decimal("0.05"), 2),
}
ICLR_ALPHA0_GRID = {Decimal(a) for a in ("2.0", "1.0", "0.5", "0.2", "0.1", "0.05")}

EVERY_TABLE = pytest.mark.parametrize(
    "paper, number", [(p, n) for p in ROWS for n in ROWS[p]], ids=lambda v: str(v)
)


def table(paper, number):
    return PAPERS[paper][f"table{number}"]


def metric_keys(paper, number):
    return [metric["key"] for metric in table(paper, number)["metrics"]]


def values(cell, keys):
    """The cell's values by metric, without its notes (lr, diverged, ...)."""
    return {key: cell[key] for key in keys if key in cell}


def cells(paper, number):
    for row_key, row in table(paper, number)["rows"].items():
        for arm in table(paper, number)["arms"]:
            yield f"{paper}.table{number}.{row_key}.{arm}", arm, row[arm]


@pytest.mark.parametrize("paper", ROWS)
def test_paper_toml_has_every_table_and_no_other(paper):
    assert set(PAPERS) == set(ROWS)
    expected = {f"table{n}" for n in ROWS[paper]} | {"title", "venue", "prefix"}
    assert set(PAPERS[paper]) == expected
    assert PAPERS[paper]["prefix"] == {"cvpr2025": "", "iclr2025": "iclr-"}[paper]


@EVERY_TABLE
def test_table_has_caption_arms_and_known_metrics(paper, number):
    head = table(paper, number)
    assert set(head) <= TABLE_KEYS
    assert head["caption"] and "\n" not in head["caption"]
    assert len(head["arms"]) == len(set(head["arms"])) > 0
    assert set(head.get("axes", {})) in (set(), {"rows", "arms"})
    assert len(set(metric_keys(paper, number))) == len(head["metrics"]) > 0
    for metric in head["metrics"]:
        assert set(metric) == {"key", "label", "unit", "direction"}
        assert metric["label"]
        assert metric["direction"] in {"higher", "lower", "none"}
        assert (metric["unit"], metric["direction"]) == METRICS[metric["key"]][:2]


@EVERY_TABLE
def test_rows_have_label_and_cell_for_every_arm(paper, number):
    arms = set(table(paper, number)["arms"])
    rows = table(paper, number)["rows"]
    assert len(rows) == ROWS[paper][number]
    for key, row in rows.items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", key), key
        assert row["label"], key
        assert arms <= set(row) <= arms | ROW_KEYS, key
        assert row.get("unchanged_printed", True) is True, key


@EVERY_TABLE
def test_cells_have_values_or_a_reason_for_their_absence(paper, number):
    keys = metric_keys(paper, number)
    for name, arm, cell in cells(paper, number):
        assert set(cell) <= set(keys) | CELL_KEYS, name
        assert cell.get("diverged", True) is True, name
        assert cell.get("no_gain", True) is True, name
        if "no_gain" in cell:
            assert cell == {"no_gain": True} and arm.endswith("(tuned)"), name
        elif "diverged" not in cell:
            assert values(cell, keys), f"{name}: neither a value nor a reason for its absence"


@EVERY_TABLE
def test_cells_of_a_row_report_the_same_metrics(paper, number):
    keys = metric_keys(paper, number)
    for key, row in table(paper, number)["rows"].items():
        reported = [set(values(row[arm], keys)) for arm in table(paper, number)["arms"]]
        reported = [metrics for metrics in reported if metrics]
        assert all(metrics == reported[0] for metrics in reported), key
        if (paper, number) in {("cvpr2025", 13), ("cvpr2025", 14)}:  # one metric per domain
            assert len(reported[0]) == 1, key
        else:
            assert reported[0] == set(keys), key


@EVERY_TABLE
def test_values_have_printed_digits_and_plausible_range(paper, number):
    keys = metric_keys(paper, number)
    for name, _, cell in cells(paper, number):
        for key, value in values(cell, keys).items():
            _, _, digits, low, high = METRICS[key]
            assert isinstance(value, Decimal), f"{name}: {key} = {value!r} is not a decimal number"
            assert low <= value <= high, f"{name}: {key} = {value}"
            assert digits in (None, -value.as_tuple().exponent), f"{name}: {key} = {value}"
            if paper == "iclr2025" and key == "alpha0":
                assert value in ICLR_ALPHA0_GRID, f"{name}: {value} is not in the searched grid"


@pytest.mark.parametrize(
    "note, number, arms",
    [
        ("lr", 13, {"LN (original)", "DyT (original)", "LN (tuned)", "DyT (tuned)"}),
        ("alpha0", 14, {"DyT (original)", "DyT (tuned)"}),
    ],
)
def test_tuning_tables_give_the_tuned_setting(note, number, arms):
    plausible = {"lr": (Decimal("1e-4"), Decimal("1e-2")), "alpha0": (Decimal("0.1"), 2)}[note]
    for name, arm, cell in cells("cvpr2025", number):
        assert (note in cell) == (arm in arms and "no_gain" not in cell), name
        if note in cell:
            assert plausible[0] <= cell[note] <= plausible[1], name


@EVERY_TABLE
def test_printed_changes_equal_differences_of_printed_values(paper, number):
    """Every printed change is exact to the last printed digit; there is no known exception."""
    keys, arms = metric_keys(paper, number), table(paper, number)["arms"]
    for row_key, row in table(paper, number)["rows"].items():
        changes = row.get("printed_change", {})
        if (paper, number) not in TABLES_WITH_CHANGES:
            assert not changes and "unchanged_printed" not in row, row_key
            continue
        assert set(changes) <= set(keys), row_key
        unchanged = set()
        for key in keys:
            if key in changes:
                assert row[arms[1]][key] - row[arms[0]][key] == changes[key], (row_key, key)
            elif (paper, number, key) not in CHANGE_NOT_PRINTED:
                unchanged.add(key)
                assert row[arms[1]][key] == row[arms[0]][key], (row_key, key)
        assert bool(unchanged) == row.get("unchanged_printed", False), row_key


def test_printed_reductions_follow_from_latencies():
    row = table("cvpr2025", 7)["rows"]["llama_7b"]
    printed = table("cvpr2025", 7)["printed_reduction"]
    assert list(printed) == metric_keys("cvpr2025", 7)
    for key, reduction in printed.items():
        before, after = row["RMSNorm"][key], row["DyT"][key]
        assert round(100 * (before - after) / before, 1) == reduction, key


def main_results():
    """Rows of CVPR Tables 1, 2, 3, 5 and 6, whose results Tables 10, 13 and 14 repeat."""
    return {k: row for n in (1, 2, 3, 5, 6) for k, row in table("cvpr2025", n)["rows"].items()}


@pytest.mark.parametrize("number, baseline", [(13, "LN (original)"), (14, "LN")])
def test_tuning_tables_repeat_main_results(number, baseline):
    keys, rows = metric_keys("cvpr2025", number), table("cvpr2025", number)["rows"]
    assert list(rows) == list(main_results())
    for key, main in main_results().items():
        assert values(rows[key][baseline], keys) == main["LN"], key
        assert values(rows[key]["DyT (original)"], keys) == main["DyT"], key


@pytest.mark.parametrize("number", [13, 14])
def test_tuned_results_beat_original_at_another_setting(number):
    note = {13: "lr", 14: "alpha0"}[number]
    direction = {m["key"]: m["direction"] for m in table("cvpr2025", number)["metrics"]}
    tuned_cells = 0
    for row_key, row in table("cvpr2025", number)["rows"].items():
        for arm in table("cvpr2025", number)["arms"]:
            if not arm.endswith("(tuned)") or "no_gain" in row[arm]:
                continue
            tuned_cells += 1
            tuned, original = row[arm], row[arm.replace("tuned", "original")]
            assert tuned[note] != original[note], row_key
            for key, value in values(tuned, direction).items():
                gain = value - original[key]
                assert (gain if direction[key] == "higher" else -gain) > 0, row_key
    assert tuned_cells == {13: 5, 14: 3}[number]


def test_cvpr_table14_has_one_default_alpha0():
    rows = table("cvpr2025", 14)["rows"].values()
    assert len({row["DyT (original)"]["alpha0"] for row in rows}) == 1


def test_cvpr_table10_repeats_ln_and_best_dyt():
    tuning = table("cvpr2025", 13)["rows"]
    for key, row in table("cvpr2025", 10)["rows"].items():
        assert row["LN"] == main_results()[key]["LN"], key
        tuned = tuning[key]["DyT (tuned)"]
        best = tuning[key]["DyT (original)"] if "no_gain" in tuned else tuned
        assert row["DyT"]["top1"] == best["top1"], key
        assert all(row["DyT"]["top1"] >= row[arm]["top1"] for arm in table("cvpr2025", 10)["arms"])


def test_cvpr_ablations_repeat_vit_b():
    squashing, alpha = table("cvpr2025", 8)["rows"], table("cvpr2025", 9)["rows"]
    for function in table("cvpr2025", 9)["arms"]:
        assert squashing["vit_b"][function] == alpha["with_alpha"][function], function
    assert squashing["vit_b"]["tanh"] == main_results()["vit_b"]["DyT"]


def test_llama_7b_alpha0_matches_width_and_depth():
    llama = table("cvpr2025", 11)["rows"]["llama_7b"]
    assert llama["DyT"] == table("cvpr2025", 12)["rows"][f"width_{llama['width']}"]["32"]
    assert llama["depth"] == 32


@pytest.mark.parametrize("paper, number", [("cvpr2025", 12), ("iclr2025", 7)])
def test_alpha0_does_not_increase_with_width(paper, number):
    rows = sorted(table(paper, number)["rows"].values(), key=lambda row: row["width"])
    for narrow, wide in itertools.pairwise(rows):
        for arm in table(paper, number)["arms"]:
            for key in metric_keys(paper, number):
                assert wide[arm][key] <= narrow[arm][key], (wide["label"], arm, key)


def test_cvpr_table12_alpha0_does_not_depend_on_depth():
    for key, row in table("cvpr2025", 12)["rows"].items():
        assert all(row[arm] == row["8"] for arm in table("cvpr2025", 12)["arms"]), key


def test_iclr_table10_alpha0_does_not_increase_with_width():
    widths = table("iclr2025", 10)["arms"]
    assert widths == sorted(widths, key=int)
    for key, row in table("iclr2025", 10)["rows"].items():
        alphas = [row[width]["alpha0"] for width in widths]
        assert alphas == sorted(alphas, reverse=True), key


def test_iclr_table11_repeats_vit_base():
    repeated = table("iclr2025", 11)["rows"]["vit_b"]
    first = table("iclr2025", 1)["rows"]["vit_b"]
    assert (repeated["LN"], repeated["DyT"]) == (first["LN"], first["DyT"])


def test_iclr_table10_prints_one_configuration_twice():
    rows = table("iclr2025", 10)["rows"]
    assert rows["head_dim_128"] == rows["seq_len_4096"]


@pytest.mark.parametrize("paper, number", [("cvpr2025", 12), ("iclr2025", 7)])
def test_width_rows_are_named_after_their_width(paper, number):
    for key, row in table(paper, number)["rows"].items():
        assert (key, row["label"]) == (f"width_{row['width']}", str(row["width"]))
