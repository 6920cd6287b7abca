"""Language, image generation and speech at mini scale: shared runs, sizes, minutes, hours."""

from collections import Counter
from pathlib import Path

import pytest

from matched import planning, projects, recipes
from matched.report.claimed_tables import claimed_tables, load_claims
from matched.site import Local, Site
from matched.table import runs_with_needs

ROOT = Path(__file__).parents[2]
DATA_SIZE = str(ROOT / "recipes/data_size.py")
MINUTES = {
    "table3": {(1, 1): 3, (2, 1): 30, (2, 4): 6, (4, 3): 6, (4, 8): 6, (4, 16): 6},
    "table4": {(1, 2): 42, (1, 4): 21, (1, 7): 21, (2, 2): 1},
    "table5": {(1, 1): 1, (5, 9): 6, (6, 12): 6},
    "table11": {(1, 2): 36, (1, 4): 18, (1, 7): 18, (2, 2): 1},
    "table12": {(1, 2): 54, (1, 3): 18, (1, 4): 18, (1, 7): 18, (2, 2): 1},
    "iclr-table3": {(1, 1): 3, (2, 1): 18, (2, 4): 6, (4, 3): 6, (4, 16): 6},
    "iclr-table4": {(1, 2): 30, (2, 2): 1},
    "iclr-table5": {(1, 1): 1, (5, 9): 12},
    "iclr-table7": {(1, 2): 36, (1, 3): 12, (1, 4): 12, (1, 7): 12, (2, 2): 1},
    "iclr-table10": {(1, 2): 72, (1, 4): 12, (2, 2): 1},
    DATA_SIZE: {(1, 2): 6, (1, 4): 6, (1, 13): 24, (2, 2): 1},
}
"""Table → minutes that its runs ask for, on a GPU and on a core → number of such runs."""


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))
    for cached in (projects.root, recipes.paper_numbers, recipes.available):
        cached.cache_clear()  # they may hold another test's project


def cells(name):
    """The cells of a table, of the first seed."""
    recipe = recipes.load(name)
    return [cell for cell in recipe.table.cells(recipe.scale("mini")) if cell.seed == 0]


def runs(name, *arms):
    return {cell.run for cell in cells(name) if not arms or cell.arm in arms}


@pytest.mark.parametrize("name", MINUTES)
def test_mini_runs_take_under_20_minutes_on_a_core(name, tmp_path):
    recipe = recipes.load(name)
    scale = recipe.scale("mini")
    assert 3 <= len(scale.seeds) <= 8 and 100 not in scale.seeds
    plan = planning.make_plan(recipe, scale, Site(file=tmp_path / "site.toml"))
    assert {planned.resources.gpus for planned in plan.runs if planned.cells} == {1}
    pairs = list(zip(plan.runs, plan.on_cluster("local").runs, strict=True))
    for _, planned in pairs:
        assert (planned.resources.gpus, planned.resources.cpus) == (0, 1)
        assert 0 < planned.resources.minutes < 20
    assert Counter(tuple(p.resources.minutes for p in pair) for pair in pairs) == MINUTES[name]


def test_mini_searches_try_four_alpha0_in_three_widths_and_two_depths():
    found = cells("iclr-table7")
    sizes = {(c.run.config.network.width, c.run.config.network.depth) for c in found}
    assert sizes == {(width, depth) for width in (64, 128, 256) for depth in (2, 4)}
    assert {cell.value for cell in found} == {"0.5", "1", "2", "4"} and len(found) == 24
    assert {c.value for c in cells("table12")} == {
        "0.5/0.5",
        "1/0.5",
        "1/1",
        "2/1",
        "2/2",
        "4/4",
    }
    minutes = {
        (cell.row, cell.arm): planned.resources.without_gpus().minutes
        for planned in plan_of("iclr-table7").runs
        for cell in planned.cells
    }
    assert minutes["width_1024", "8"] == 2 and minutes["width_4096", "16"] == 7


def plan_of(name):
    recipe = recipes.load(name)
    return planning.make_plan(recipe, recipe.scale("mini"), Site(file=ROOT / "no-such/site.toml"))


@pytest.mark.parametrize(
    ("first", "arms", "second", "count"),
    [
        ("table11", (), "table12", 24),
        ("table4", ("DyT",), "table11", 24),
        ("iclr-table4", ("DyT",), "iclr-table7", 8),
        ("iclr-table4", ("RMSNorm",), "table4", 2),
        ("iclr-table7", (), "table12", 24),
        ("iclr-table3", ("LN",), "table3", 2),
        ("iclr-table3", ("DyT",), "table3", 2),
    ],
)
def test_mini_tables_share_runs_with_others(first, arms, second, count):
    assert runs(first, *arms) <= runs(second)
    assert len(runs(first, *arms)) == count


def test_mini_speech_shares_the_post_norm_network():
    networks = {
        f"{table}/{cell.row}": cell.run.config.network
        for table in ("table5", "iclr-table5")
        for cell in cells(table)
    }
    assert {row: (n.encoder_layers, n.layer_norm_first) for row, n in networks.items()} == {
        "table5/wav2vec2_base": (4, False),
        "table5/wav2vec2_large": (6, True),
        "iclr-table5/wav2vec2_base_prenorm": (4, True),
        "iclr-table5/wav2vec2_base_postnorm": (4, False),
    }
    assert len(runs("iclr-table5") & runs("table5")) == 2
    shared = runs(DATA_SIZE) & (runs("table4") | runs("iclr-table7"))
    assert len(shared) == 2, "one million tokens, once"


def test_data_size_rows_see_and_repeat_their_tokens():
    seen = {}
    for cell in cells(DATA_SIZE):
        config = cell.run.config
        seen[cell.row] = (config.train_tokens, config.steps * config.batch * config.length)
        assert config.embedding_scale == (cell.arm == "DyT")
    tokens = {row: round(total, -5) for row, (_, total) in seen.items()}
    once = {"tokens_1m": 1_000_000, "tokens_2m": 2_000_000, "tokens_7m": 7_000_000}
    assert tokens == {**dict.fromkeys(seen, 7_000_000), **once}
    assert {row: distinct for row, (distinct, _) in seen.items()} == {
        **dict.fromkeys(once),
        "tokens_100k_repeated": 100_000,
        "tokens_1m_repeated": 1_000_000,
        "tokens_2m_repeated": 2_000_000,
    }


@pytest.mark.parametrize("name", ["table5", "iclr-table5"])
def test_mini_speech_takes_a_folder(name):
    recipe = recipes.load(name)
    scale = recipe.scale("mini").on_data["speech-folder"]
    for cell in recipe.table.cells(scale):
        assert {run.config.data for _, run in runs_with_needs(cell.run, "")} == {"speech-folder"}
    assert "the folder's speech" in scale.note


@pytest.mark.slow
def test_claims_at_mini_scale_take_30_hours_on_two_cores(tmp_path):
    site = Site(file=tmp_path / "site.toml", local=Local(workers=2))
    tables = claimed_tables(load_claims(ROOT), ROOT, site, scale="mini", cluster="local")
    names = [table.plan.recipe.name for table in tables]
    assert names.index("table8") < names.index("table12") < names.index("table1")
    assert names.index("table1") < names.index("table4") < names.index("table6")
    assert "data_size" in names
    # Table 6 needs a GPU.
    hours = sum(t.hours for t in tables if all(not p.resources.gpus for p in t.plan.runs))
    assert 24 < hours <= 30
