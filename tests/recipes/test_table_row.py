"""Benchmarks that compute rows of tables: agreement with docstrings, the rows of ``make gpu``."""

import importlib
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from matched import projects, recipes

ROOT = Path(__file__).parents[2]
OWN = ("table_row", "gpu_sections", "measuring")


@pytest.fixture
def load(monkeypatch):
    """Return a function that imports a benchmark with its folder on the path, as for a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))
    for cached in (projects.root, recipes.paper_numbers, recipes.available):
        cached.cache_clear()  # they may hold another test's project
    yield importlib.import_module
    for name in list(sys.modules):
        if name.split(".")[0] in OWN:
            sys.modules.pop(name)


DOCSTRING = """Mini scale.

    Expected   vit_s: identity 98.2 (92.9 to 103.5), tanh 97.5 (97.5 to 97.5),
               hardtanh 96.9 (89.9 to 104.0)
               vit_b: tanh -0.5 (-1 to 0.25). One core.
"""


def test_expected_intervals_are_those_of_the_row(load):
    found = load("table_row").expected_intervals
    assert found(DOCSTRING, "vit_s", ["identity", "tanh", "hardtanh", "sigmoid"]) == {
        "identity": (92.9, 103.5),
        "tanh": (97.5, 97.5),
        "hardtanh": (89.9, 104.0),
    }
    assert found(DOCSTRING, "vit_b", ["tanh", "hardtanh"]) == {"tanh": (-1.0, 0.25)}
    assert found(DOCSTRING, "vit_l", ["tanh"]) == {}


def test_table_row_states_intervals_that_it_reads(load):
    row = load("table_row")
    measured = {"LN": (97.6, 98.4), "DyT": (97.0, 97.0)}
    stated = row.statement("vit_s", measured)
    assert stated == "vit_s: LN 98 (97.6 to 98.4), DyT 97 (97 to 97)"
    assert row.expected_intervals(f"Expected   {stated}", "vit_s", ["LN", "DyT"]) == measured


@pytest.mark.parametrize(
    ("interval", "agrees"),
    [((97.0, 97.7), True), ((97.5, 97.5), True), ((98.5, 99.0), False), ((90.0, 97.0), False)],
)
def test_table_row_agrees_where_intervals_overlap(load, interval, agrees):
    lines = load("table_row").disagreements({"LN": (97.4, 98.3)}, {"LN": interval})
    assert (lines == []) == agrees


def test_table_row_names_missing_intervals_and_diverged_runs(load):
    row = load("table_row")
    result = {"trial": "", "metric": "top1", "state": "done", "hardware": "a CPU"}
    results = [
        row.Result(arm=arm, seed=seed, value=value, **result)
        for arm, seed, value in (("LN", 0, 1.0), ("LN", 1, 3.0), ("DyT", 0, None), ("DyT", 1, 2.0))
    ]
    measured = row.measured_intervals(results)
    assert measured["DyT"] is None and measured["LN"][0] < 1 < 3 < measured["LN"][1]
    assert row.disagreements({"DyT": (0.0, 1.0)}, measured) == [
        "LN: the recipe states no interval",
        "DyT: a run has failed or diverged",
    ]


def test_table_row_refuses_unknown_rows_and_seeds(load):
    row, recipe = load("table_row"), recipes.load("table8")
    scale = recipe.scale("mini")
    assert len(row.cells_of(recipe, scale, "vit_s", [1])) == 4
    with pytest.raises(ValueError, match="no row vit_x at mini scale; its rows are vit_s, vit_b"):
        row.cells_of(recipe, scale, "vit_x", [])
    with pytest.raises(ValueError, match=r"has the seeds \(0, 1, 2, 3, 4\), not \[9\]"):
        row.cells_of(recipe, scale, "vit_s", [9])


def test_table_row_reads_the_docstring_of_the_scale(load):
    docstring_of = load("table_row").docstring_of
    assert docstring_of(recipes.load("table8"), "mini").startswith("Mini scale of Table 8")
    own = recipes.load(str(ROOT / "recipes/data_size.py"))
    assert docstring_of(own, "mini").startswith("RMSNorm and DyT by the amount of text")


def test_gpu_rows_begin_with_the_most_decisive_tables(load):
    names = [part.name for part in load("gpu_sections.mini").rows_by_seed()]
    assert names[:3] == ["table8 vit_s seed 0", "table8 vit_b seed 0", "table8 vit_s seed 1"]
    order = list(dict.fromkeys(name.split()[0] for name in names))
    assert order == ["table8", "table12", "table1", "table4", "table6"]
    assert len(set(names)) == len(names)


def test_gpu_rows_of_another_card_or_kernel_are_elsewhere(load, tmp_path):
    folder = load("gpu_sections.mini").runs_folder
    here = {"hardware": "NVIDIA H100, 80 GB", "kernels": "0a"}
    assert folder(tmp_path, here) == tmp_path / "mini/NVIDIA-H100-80-GB-0a"
    for column in here:
        assert folder(tmp_path, {**here, column: "other"}) != folder(tmp_path, here)


def test_checkout_without_installation_registers_its_sources(load, tmp_path):
    names = load("gpu_sections.source_names")
    variables = names.environment(tmp_path, {"PYTHONPATH": "here", "DYT_BACKEND": "triton"})
    assert variables["PYTHONPATH"].split(":") == [str(tmp_path), "here"]
    assert "DYT_BACKEND" not in variables
    found = {
        point.name
        for package in distributions(path=[str(tmp_path)])
        for point in package.entry_points.select(group="matched.data")
    }
    assert {"digits", "docstrings", "synthetic-speech", "arabidopsis"} <= found


ONE_EPOCH = """
from dataclasses import replace

from matched import Metric, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.cvpr2025.smoke.table01 import SCALE

RUN = SCALE.runs["vit_b"]
RUN = replace(RUN, config=replace(RUN.config, epochs=1, warmup_epochs=0))
TOP1 = Metric(key="top1", label="top-1 %", direction="higher")
SCALES = (replace(SCALE, runs={"vit": RUN}, metrics=(TOP1,)),)
TABLE = Table(arms=LN_VS_DYT, scales=SCALES)
"""


@pytest.mark.slow
def test_gpu_row_is_computed_and_taken_from_its_folder(load, tmp_path):
    mini = load("gpu_sections.mini")
    recipe = tmp_path / "one_epoch.py"
    recipe.write_text(ONE_EPOCH)
    options = {"device": "cpu", "scale": "smoke"}
    first = mini.compute(str(recipe), "vit", 0, tmp_path, **options)
    assert [row["arm"] for row in first] == ["LN", "DyT"]
    (runs,) = tmp_path.glob("mini/*/runs")
    finished = {file: file.stat().st_mtime_ns for file in runs.glob("*/*/result.json")}
    assert len(finished) == 2
    assert mini.compute(str(recipe), "vit", 0, tmp_path, **options) == first
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    with pytest.raises(RuntimeError, match="no row vit_x at smoke scale"):
        mini.compute(str(recipe), "vit_x", 0, tmp_path, **options)
