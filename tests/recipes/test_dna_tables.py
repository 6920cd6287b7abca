"""Recipes of both papers' Table 6: tasks, splits, schedules, and the variants."""

from pathlib import Path

import pytest

from dyt_hyenadna.genomic_benchmarks import TASKS
from matched import projects, recipes
from matched.table import runs_with_needs
from matched.training.schedule import lr_factor

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))
    for cached in (projects.root, recipes.paper_numbers, recipes.available):
        cached.cache_clear()  # they may hold another test's project


def runs(name, scale="paper"):
    """Path → run of all chains of a table, LN."""
    recipe = recipes.load(name)
    found = {}
    for cell in recipe.table.cells(recipe.scale(scale)):
        if cell.arm == "LN":
            found |= dict(runs_with_needs(cell.run, cell.row))
    return found


def steps_of(task, batch):
    """Steps of the official fine-tuning, on 90 % of a task's training sequences."""
    samples = sum(TASKS[task].train.values())
    return (samples - round(0.1 * samples)) // batch * 10


LAST_RATES = {
    "dummy_mouse_enhancers_ensembl": 0.41,
    "demo_coding_vs_intergenomic_seqs": 0.32,
    "demo_human_or_worm": 0.32,
    "human_enhancers_cohn": 0.32,
    "human_enhancers_ensembl": 0.26,
    "human_ensembl_regulatory": 0.26,
    "human_nontata_promoters": 0.32,
    "human_ocr_ensembl": 0.26,
}
"""Task → last learning rate over the peak in the official runs at batch 128."""


@pytest.mark.parametrize("task", LAST_RATES)
def test_official_schedule_ends_at_the_official_rate(task):
    config = runs("table6")[f"hyenadna/{task}/batch128/split1"].config
    steps = steps_of(task, 128)
    last = lr_factor(steps, steps, steps // 10, config)
    assert last == pytest.approx(LAST_RATES[task], abs=0.012)


def test_scores_at_paper_scale_need_every_task_setting_and_split():
    found = runs("table6")
    for row, settings in (
        ("hyenadna", ("batch128", "batch256", "batch128_flip", "batch256_flip")),
        ("caduceus", tuple(f"batch{b}_lr{r}" for b in (128, 256) for r in ("1e-3", "2e-3"))),
    ):
        for task in TASKS:
            for setting in settings:
                for split in range(1, 6):
                    config = found[f"{row}/{task}/{setting}/split{split}"].config
                    assert (config.task, config.split) == (task, split)
                    assert str(config.batch) in setting and ("flip" in setting) == bool(config.flip)


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_one_pretraining_per_network_serves_all_tasks(scale):
    found = runs("table6", scale)
    pretrainings = {r.signature for path, r in found.items() if path.endswith("/pretrained")}
    assert len(pretrainings) == 2


def test_fine_tuning_has_the_network_of_its_pretraining():
    for name in ("table6", "iclr-table6"):
        for scale in ("smoke", "paper"):
            for run in runs(name, scale).values():
                if "pretrained" in run.needs:
                    assert run.config.network == run.needs["pretrained"].config.network


@pytest.mark.parametrize(
    "file, row, field, value",
    [
        ("table06_d256.py", "hyenadna", "width", 256),
        ("table06_d256.py", "caduceus", "layers", 8),
        ("table06_unit_embedding.py", "hyenadna", "embedding_std", 1.0),
        ("table06_unit_embedding.py", "caduceus", "embedding_std", 1.0),
    ],
)
def test_variants_change_both_arms_alike(file, row, field, value):
    recipe = recipes.load(str(ROOT / "recipes" / "cvpr2025" / file))
    arms = set()
    for cell in recipe.table.cells(recipe.scale("paper")):
        if cell.row == row:
            arms.add(cell.arm)
            for _, run in runs_with_needs(cell.run, cell.row):
                if hasattr(run.config, "network"):
                    assert getattr(run.config.network, field) == value
    assert arms == {"LN", "DyT"}


def test_unit_embedding_is_the_only_difference_of_its_variant():
    from matched.matching import run_differences

    table = recipes.load("table6")
    variant = recipes.load(str(ROOT / "recipes" / "cvpr2025" / "table06_unit_embedding.py"))
    cells = zip(
        table.table.cells(table.scale("paper")),
        variant.table.cells(variant.scale("paper")),
        strict=True,
    )
    for one, other in cells:
        differences = run_differences(one.run, other.run)
        assert differences and all(path.endswith(".embedding_std") for path in differences)
