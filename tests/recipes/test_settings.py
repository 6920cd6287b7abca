"""Agreement of docs/SETTINGS*.md with the recipes at paper scale, setting by setting."""

import re
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from dyt_llama.latency_config import VARIANTS
from matched import recipes
from matched.matching import config_field, run_differences
from matched.search import label_of

from .settings_pages import (
    PAGES,
    ROOT,
    TUNING_TABLES,
    every_run,
    mistakes,
    page,
    runs_of,
    settings,
    unwritten,
)

each_page = pytest.mark.parametrize("package", PAGES)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))


@each_page
def test_settings_page_agrees_with_recipes(package):
    assert not mistakes(PAGES[package].read_text(), runs_of(package))


@each_page
def test_settings_page_lists_every_setting_of_every_run(package):
    assert not unwritten(PAGES[package].read_text(), runs_of(package))


def test_every_run_includes_tables_and_their_needs():
    vision, dit, wav2vec, llama = map(
        runs_of, ("dyt_vision", "dyt_dit", "dyt_wav2vec", "dyt_llama")
    )
    assert len({a.split("/")[0] for a in vision}) >= 10
    assert {"table1/vit_b/LN", "table2/pretrained/mae_vit_b/DyT"} <= set(vision)
    needs = ("", "samples/", "samples/trained/", "samples/trained/latents/")
    rows = {"table3": ("dit_b4", "dit_l4", "dit_xl2"), "iclr-table3": ("dit_b4", "dit_l2")}
    assert set(dit) == {
        f"{table}/{need}{row}/{arm}"
        for table in rows
        for need in needs
        for row in rows[table]
        for arm in ("LN", "DyT")
    }
    rows = {
        "table5": ("wav2vec2_base", "wav2vec2_large"),
        "iclr-table5": ("wav2vec2_base_prenorm", "wav2vec2_base_postnorm"),
    }
    assert set(wav2vec) == {
        f"{table}/{need}{row}/{arm}"
        for table in rows
        for need in ("", "speech/")
        for row in rows[table]
        for arm in ("LN", "DyT")
    }
    rows = {
        "table4": ("llama_7b", "llama_13b", "llama_34b", "llama_70b"),
        "iclr-table4": ("llama_1b4", "llama_7b"),
    }
    tables = ("table11", "table12", "iclr-table7", "iclr-table10")
    searches = {address for address in llama if address.split("/")[0] in tables}
    assert {"table11/llama_7b/DyT/0.8/0.2", "iclr-table10/tokens/head_dim_32/512/2"} <= searches
    assert set(llama) - searches == {
        f"{table}/{need}{row}/{arm}"
        for table in rows
        for need in ("", "pretrained/", "pretrained/tokens/")
        for row in rows[table]
        for arm in ("RMSNorm", "DyT")
    } | {f"table7/llama_7b/{arm}" for arm in VARIANTS}


def test_every_run_includes_all_chains_of_the_dna_tables():
    dna = runs_of("dyt_hyenadna")
    tuned = [a for a in dna if fnmatchcase(a, "table6/*/*/split?/hyenadna/LN")]
    # Eight tasks, four settings, five splits.
    assert len(tuned) == 8 * 4 * 5
    assert len([a for a in dna if fnmatchcase(a, "iclr-table6/[chm]*/DyT")]) == 8
    assert "table6/human_or_worm/caduceus/LN" not in dna
    task = "table6/demo_human_or_worm"
    chain = ("", "/batch256_lr2e-3", "/batch256_lr2e-3/split5")
    needs = ("/pretrained", "/pretrained/genome", "/benchmarks")
    for address in (*chain, *(f"{chain[-1]}{need}" for need in needs)):
        assert f"{task}{address}/caduceus/DyT" in dna


VIT, TRAINED = "table1/vit_b/LN", "table3/samples/trained/dit_b4/LN"
SPEECH = "table5/wav2vec2_large/LN"
DNA = "table6/demo_human_or_worm/batch256_lr2e-3/split2/caduceus/DyT"


@pytest.mark.parametrize(
    "run, row",
    [
        (VIT, "| `lr` | 4.1e-3 | |"),
        (VIT, "| `epochs` | 301 | |"),
        (VIT, "| `betas` | (0.9, 0.95) | |"),
        (VIT, "| `betas` | (0.9, 0.999, 0.9) | |"),
        (VIT, "| `precision` | fp16 | |"),
        (VIT, "| `clip_norm` | 1.0 | |"),
        (VIT, "| `convert_batch_norm` | yes | |"),
        (VIT, "| `model_args` | global_pool: token | |"),
        (VIT, "| `gpus` | 32 | |"),
        (VIT, "| `norm` | DyT(α0=0.5) | |"),
        (TRAINED, "| `norm` | DyT(α0=0.5) | |"),
        (TRAINED, "| `zero_init` | no | |"),
        (TRAINED, "| `network.width` | 1024 | |"),
        (TRAINED, "| `data` | sd-vae | |"),
        (TRAINED, "| `data` | (imagenet, sd-vae) | |"),
        (TRAINED, "| `gpus` | 4 | |"),
        ("table3/samples/dit_xl2/DyT", "| `network.patch_size` | 4 | |"),
        ("table3/samples/dit_xl2/DyT", "| `cfg_scale` | 1.5 | |"),
        ("table3/samples/trained/latents/dit_b4/LN", "| `flip` | no | |"),
        ("iclr-table3/dit_l2/DyT", "| `neighbours` | 5 | |"),
        (SPEECH, "| `epochs` | 200 | |"),
        (SPEECH, "| `network.layer_norm_first` | no | |"),
        (SPEECH, "| `network.conv_feature_layers` | ((512, 10, 5), (512, 3, 2)) | |"),
        ("table5/speech/wav2vec2_base/DyT", "| `shuffle_seed` | 1 | |"),
        ("iclr-table5/wav2vec2_base_prenorm/DyT", "| `norm` | DyT(α0=0.5) | |"),
        (DNA, "| `batch` | 128 | |"),
        (DNA, "| `split` | none | |"),
        (DNA, "| `schedule_steps` | 7820 | |"),
        (DNA, "| `network.variant` | ph | |"),
        ("iclr-table6/human_vs_worm/LN", "| `task` | human_nontata_promoters | |"),
    ],
)
def test_wrong_value_in_settings_page_is_found(run, row):
    assert len(mistakes(page(row, run), every_run())) == 1


@pytest.mark.parametrize(
    "package, address, change, told",
    [
        ("dyt_vision", "table1/vit_l/LN", {"lr": 5e-3}, "lr of {}: 4e-3 in the text, 0.005"),
        ("dyt_dit", TRAINED, {"lr": 1e-4}, "lr of {}: 4e-4 in the text, 0.0001"),
        ("dyt_dit", "table3/dit_l4/DyT", {"neighbours": 5}, "neighbours of {}: 3 in the text, 5"),
        (
            "dyt_wav2vec",
            SPEECH,
            {"micro_batches_per_update": 64},
            "micro_batches_per_update of {}: 128 in the text, 64",
        ),
    ],
)
def test_changed_recipe_value_is_found(package, address, change, told):
    """A row is compared with the recipe's resolved value, not with the default."""
    found = mistakes(PAGES[package].read_text(), changed(package, address, **change))
    assert found == [f"{told.format(address)} in the recipe"]


def test_changed_network_size_in_recipe_is_found():
    network = replace(runs_of("dyt_dit")[TRAINED][0].network, depth=13)
    runs = changed("dyt_dit", TRAINED, network=network)
    found = mistakes(PAGES["dyt_dit"].read_text(), runs)
    assert found == [f"network.depth of {TRAINED}: 12 in the text, 13 in the recipe"]


@pytest.mark.parametrize("name", TUNING_TABLES)
def test_tuning_tables_change_only_the_tuned_value(name):
    """So their settings are those of the pages, for the runs of Tables 1 to 6."""
    recipe = recipes.load(name)
    scale = recipe.scale("paper")
    cells = recipe.table.cells(scale)
    untuned = {}
    for table in ("table1", "table2", "table3", "table5", "table6"):
        other = recipes.load(table)
        for cell in other.table.cells(other.scale("paper")):
            untuned[cell.row, cell.arm] = cell.run
    assert {cell.row for cell in cells} == {row for row, _ in untuned}
    for cell in cells:
        arm = cell.arm.removesuffix(" (original)").removesuffix(" (tuned)")
        differences = run_differences(untuned[cell.row, arm], cell.run)
        tuned = {config_field(path) for path in differences}
        search = scale.search(cell.row, cell.arm)
        original = search is None or cell.value == label_of(search.original)
        changed = {"table13": "lr", "table14": "norm"}[name]
        assert tuned == (set() if original else {changed}), cell


def changed(package, address, **change):
    """The runs of a page, one of them with changed settings."""
    runs = runs_of(package)
    config, resources = runs[address]
    return {**runs, address: (replace(config, **change), resources)}


@pytest.mark.parametrize(
    "package, field",
    [
        ("dyt_vision", "epochs"),
        ("dyt_vision", "teacher_momentum"),
        ("dyt_dit", "zero_init"),
        ("dyt_dit", "network.width"),
        ("dyt_dit", "cfg_scale"),
        ("dyt_dit", "neighbours"),
        ("dyt_dit", "autoencoder"),
        ("dyt_wav2vec", "micro_batches_per_update"),
        ("dyt_wav2vec", "shuffle_seed"),
        ("dyt_wav2vec", "network.conv_feature_layers"),
        ("dyt_hyenadna", "mask_probability"),
        ("dyt_hyenadna", "network.filter_width"),
        ("dyt_hyenadna", "length_stages"),
    ],
)
def test_setting_without_a_row_is_found(package, field):
    lines = PAGES[package].read_text().splitlines()
    other_rows = "\n".join(line for line in lines if not line.startswith(f"| `{field}` |"))
    runs = runs_of(package)
    having = [a for a, (config, _) in runs.items() if field in settings(config)]
    assert having and unwritten(other_rows, runs) == [f"{field} of {a}" for a in having]


def test_settings_of_synthetic_speech_need_no_row():
    runs = {a: run for a, run in runs_of("dyt_wav2vec").items() if "/speech/" in a}
    assert runs and sorted(unwritten("", runs)) == sorted(
        f"{field} of {a}" for a in runs for field in ("data", "shuffle_seed")
    )
    address, (config, resources) = next(iter(runs.items()))
    synthetic = {address: (replace(config, data="synthetic-speech"), resources)}
    for field in ("train", "valid", "voices"):
        assert f"{field} of {address}" in unwritten("", synthetic)


@each_page
def test_run_without_rows_is_found(package):
    runs = runs_of(package)
    config, resources = next(iter(runs.values()))
    found = unwritten(PAGES[package].read_text(), runs | {"new/row/LN": (config, resources)})
    named_by_all = set(unwritten("", {"new/row/LN": (config, resources)}))
    assert found and set(found) <= named_by_all


def test_fields_unused_by_constant_schedule_need_no_row():
    missing = unwritten("", {TRAINED: runs_of("dyt_dit")[TRAINED]})
    assert f"warmup_epochs of {TRAINED}" in missing
    for field in ("min_lr", "decay_epochs", "decay_factor", "momentum", "network"):
        assert f"{field} of {TRAINED}" not in missing


@pytest.mark.parametrize(
    "text, reason",
    [
        (page("| `lr` | 1 | |", run="table1/vit_x"), "is not a run of this page"),
        (page("| `rate` | 1 | |", VIT), "no setting 'rate'"),
        (page("| `network` | 1 | |", TRAINED), "no setting 'network'"),
        (page("| `network.size` | 1 | |", TRAINED), "no setting 'network.size'"),
        (page("| `lr` | 1 | 2 | |", VIT), "cells"),
        (page("| `lr` | 4e-3 = 2e-3 × 3 | |", VIT), "4e-3 = 2e-3 × 3 is"),
        (page("| `lr` | 1 | |", VIT).partition("\n")[2], "neither a Runs: line"),
    ],
)
def test_row_that_cannot_be_checked_is_refused(text, reason):
    with pytest.raises(AssertionError, match=reason):
        mistakes(text, every_run())


@pytest.mark.parametrize(
    ("package", "other"),
    [
        ("dyt_vision", TRAINED),
        ("dyt_dit", SPEECH),
        ("dyt_wav2vec", VIT),
        ("dyt_hyenadna", SPEECH),
    ],
)
def test_settings_page_describes_only_its_package(package, other):
    with pytest.raises(AssertionError, match="is not a run of this page"):
        mistakes(page("| `epochs` | 1 | |", other), runs_of(package))


@each_page
def test_settings_page_contains_no_machine_paths(package):
    assert not re.search(r"/(tmp|work|home)/", PAGES[package].read_text())


LONGEST = {
    "table1": {64: 24},
    "table2": {32: 96, 64: 48, 176: 96},
    "table3": {8: 60},
    "table4": {8: 4, 32: 8, 512: 23, 1024: 61},
    "table5": {1: 3, 64: 40, 128: 56},
    "table6": {1: 2, 8: 6},
    "table7": {1: 10 / 60},
    "table8": {64: 24},
    "table9": {64: 24},
    "table10": {32: 12, 64: 48},
    "table11": {32: 8, 512: 4, 1024: 10},
    "table12": {32: 8, 512: 4.4, 1024: 8.8},
    "table15": {8: 48},
    "iclr-table1": {64: 24},
    "iclr-table2": {8: 24, 32: 96, 64: 48, 176: 96},
    "iclr-table3": {8: 600},
    "iclr-table4": {8: 1, 32: 8, 64: 30, 256: 57},
    "iclr-table5": {1: 3, 64: 18},
    "iclr-table6": {1: 6, 8: 6},
    "iclr-table7": {32: 8, 64: 13.05},
    "iclr-table8": {64: 24},
    "iclr-table10": {32: 8, 64: 2},
    "iclr-table11": {8: 48, 64: 24},
}
"""Table → number of processes → hours that its longest run of as many asks for, at paper scale."""
SHORTEST_TRAINING = 2
"""Hours that a run of eight or more processes asks for at least, unless it only scores."""


def test_requested_hours_at_paper_scale():
    longest = {}
    for address, (config, resources) in every_run().items():
        hours = longest.setdefault(address.split("/")[0], {})
        processes, asked = resources.world_size, resources.minutes / 60
        hours[processes] = max(asked, hours.get(processes, 0))
        trains = processes >= 8 and type(config).__name__ not in ("Scoring", "ZeroShot")
        assert not trains or asked >= SHORTEST_TRAINING, address
    assert longest == LONGEST
