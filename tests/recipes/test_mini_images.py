"""The vision tables at mini scale: α0 by width, shared runs, minutes, networks of each set."""

from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
import torch

from dyt import Norm, suggested_alpha0
from dyt_vision import models
from matched import overrides, planning, projects, recipes
from matched.site import Site
from matched.table import runs_with_needs

ROOT = Path(__file__).parents[2]
TABLES = {
    "table1": {(2, 8): 20, (2, 11): 10, (2, 15): 10},
    "table2": {(2, 5): 24, (4, 10): 6, (4, 17): 6, (4, 19): 12},
    "table8": {(2, 4): 20, (2, 8): 20},
    "table9": {(2, 8): 30},
    "table10": {(2, 5): 30, (2, 8): 15, (2, 15): 15, (4, 10): 15, (4, 17): 15},
    "table15": {(2, 4): 20},
    "iclr-table1": {(2, 7): 10, (2, 8): 20, (2, 11): 10, (2, 15): 10},
    "iclr-table2": {(2, 5): 24, (4, 10): 6, (4, 17): 6, (4, 19): 12},
    "iclr-table8": {(2, 4): 40},
    "iclr-table11": {(2, 4): 30, (2, 8): 15},
}
"""Table → minutes that its runs ask for, on a GPU and on a core → number of such runs."""
FOLDERS = ("cifar100", "tiny-imagenet")


@pytest.fixture(scope="module")
def loaded():
    """Map each table to its recipe, which is loaded once."""
    with mock.patch.dict("os.environ", MATCHED_ROOT=str(ROOT)):
        for cached in (projects.root, recipes.paper_numbers, recipes.available):
            cached.cache_clear()
        yield {name: recipes.load(name) for name in TABLES}


def cells(recipe, data="digits"):
    """Map (row, arm) to the run of the first seed."""
    _, scale = overrides.with_changes(recipe, recipe.scale("mini"), [f"data={data}"])
    return {(c.row, c.arm): c.run for c in recipe.table.cells(scale) if c.seed == 0}


def test_mini_alpha0_follows_the_width_of_each_row(loaded):
    widths = {"vit_b": 128, "vit_l": 192, "convnext_b": 128, "convnext_l": 192, "mixer_b": 128}
    for (row, arm), run in cells(loaded["iclr-table1"]).items():
        norm = Norm.dyt(alpha0=suggested_alpha0(widths[row])) if arm == "DyT" else Norm.own()
        assert run.config.norm == norm
    (tanh,) = {c.config.norm for k, c in cells(loaded["table8"]).items() if k == ("vit_s", "tanh")}
    assert tanh.alpha0 == 2.0


def test_mini_tables_share_their_runs(loaded):
    runs = {name: cells(loaded[name]) for name in TABLES}
    for arm in ("tanh", "hardtanh", "sigmoid"):
        assert runs["table9"]["with_alpha", arm] == runs["table8"]["vit_b", arm]
        assert runs["iclr-table8"]["with_alpha", arm] == runs["table8"]["vit_s", arm]
    for row in ("vit_b", "vit_l"):
        assert runs["table10"][row, "LN"] == runs["table1"][row, "LN"]
        assert runs["table10"][f"mae_{row}", "LN"] == runs["table2"][f"mae_{row}", "LN"]
    assert runs["table8"]["vit_b", "tanh"] == runs["table1"]["vit_b", "DyT"]
    assert runs["iclr-table11"]["vit_b", "LN"] == runs["table1"]["vit_b", "LN"]


@pytest.mark.parametrize("table", TABLES)
def test_mini_runs_take_under_20_minutes_on_a_core(loaded, table, tmp_path):
    scale = loaded[table].scale("mini")
    assert 3 <= len(scale.seeds) <= 8
    recipe = loaded[table]
    plan = planning.make_plan(recipe, scale, Site(file=tmp_path / "site.toml"))
    assert {planned.resources.gpus for planned in plan.runs} == {1}
    pairs = list(zip(plan.runs, plan.on_cluster("local").runs, strict=True))
    for _, planned in pairs:
        assert (planned.resources.gpus, planned.resources.cpus) == (0, 1)
        assert 0 < planned.resources.minutes < 20
    assert Counter(tuple(p.resources.minutes for p in pair) for pair in pairs) == TABLES[table]


def test_mini_scale_on_a_folder_fits_networks_to_it(loaded):
    with_folders = {n for n in TABLES if loaded[n].scale("mini").on_data}
    assert with_folders == {"table1", "table8", "table9", "iclr-table1", "iclr-table8"}
    for name in with_folders:
        for data, size in zip(FOLDERS, (32, 64), strict=True):
            recipe, scale = overrides.with_changes(
                loaded[name], loaded[name].scale("mini"), [f"data={data}"]
            )
            assert recipe.results_name(scale) == f"{name}.mini.data={data}"
            resources = (scale.resources, *scale.resource_overrides.values())
            assert {(one.gpus, one.cpu_minutes) for one in resources} == {(1, 0)}
            for cell in recipe.table.cells(scale):
                configs = [run.config for _, run in runs_with_needs(cell.run, cell.row)]
                assert {(c.data, c.image_size) for c in configs} == {(data, size)}


@pytest.mark.parametrize(
    ("table", "row", "arm", "data"),
    [
        ("table1", "convnext_b", "DyT", "cifar100"),
        ("iclr-table1", "mixer_b", "DyT", "tiny-imagenet"),
        ("table8", "vit_s", "hardtanh", "tiny-imagenet"),
        ("table15", "vgg19", "DyT", "digits"),
        ("table15", "resnet50", "DyT", "digits"),
    ],
)
def test_mini_networks_take_images_of_their_set(loaded, table, row, arm, data):
    config = cells(loaded[table], data)[row, arm].config
    network, norms = models.build(config, classes=7)
    assert norms
    with torch.no_grad():
        size = config.image_size
        assert network.eval()(torch.zeros(1, 3, size, size)).shape == (1, 7)
