"""Tests of configs, facts about upstreams, log parsers and checkouts."""

import math
from pathlib import Path

import pytest

from dyt import Norm
from dyt_upstream import config as configs
from dyt_upstream.config import Script
from dyt_upstream.records import (
    json_lines,
    latest_by_step,
    matches,
    printed_json,
    renamed,
)
from dyt_upstream.upstreams import UPSTREAMS
from matched import recipes
from matched.table import runs_with_needs

from ..config_checks import defaults_of, refusal

PAGES = sorted((Path(__file__).parents[2] / "recipes" / "upstream").glob("official_*.py"))

VALID = {
    "upstream": "miniature",
    "command": ("train.py", "--output", "{output}"),
    "metrics": ("accuracy",),
    "data": ("upstream.miniature",),
}


def test_defaults_of_script_config():
    assert defaults_of(configs) == {
        "Script": {
            "processes": 1,
            "torchrun": False,
            "commit": "",
            "data": (),
            "skip": (),
            "also": (),
            "environment": (),
            "total": 0,
            "seed": 0,
        }
    }
    assert Script(**VALID).norm == Norm.own()


KNOWN = "known are {output}, {checkout}, {seed}, {data.NAME} and {needs.NAME}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"upstream": "mea"},
            "unknown upstream 'mea'; known are miniature, mae, dino, dit, hyenadna, caduceus, "
            "fairseq, nanogpt",
        ),
        (
            {"command": ("trian.py", "-x", "y")},
            "'trian.py -x' starts with no known script of miniature; known are train.py",
        ),
        (
            {"metrics": ("accuracy", "top1", "top5")},
            "metrics top1, top5 are not among those of train.py: loss, accuracy",
        ),
        ({"data": ()}, "data must contain 'upstream.miniature', the checkout"),
        *(
            (
                {"command": ("train.py", "{output}", f"--a={{{name}}}")},
                f"unknown placeholder {{{name}}} in '--a={{{name}}}'; {KNOWN}",
            )
            for name in ("outptu", "seeds", "data", "needs.a.b", "data.")
        ),
        (
            {"command": ("train.py", "{data.text}")},
            "'{data.text}' reads 'text', which is not in data",
        ),
        ({"processes": 0}, "processes is 0; expected 1 or more"),
    ],
)
def test_script_config_refuses(changes, message):
    assert refusal(Script(**VALID), **changes) == message


def test_script_config_accepts_every_known_placeholder():
    words = ("{output}", "{checkout}/{seed}", "{data.my-text.v1}", "{needs.first-run}")
    data = ("upstream.miniature", "my-text.v1")
    assert Script(**{**VALID, "command": ("train.py", *words), "data": data}).processes == 1


def test_script_config_keeps_braces_of_hydra():
    words = ("train.py", "model={a: 1, b: ${c}}", "{output}")
    assert Script(**{**VALID, "command": words}).command == words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_official_recipe_has_scripts_for_both_arms(page):
    recipe = recipes.load(str(page))
    for scale in recipe.table.scales:
        cells = recipe.table.cells(scale)
        assert len(cells) == 2 * len(scale.runs)
        for ln, dyt in zip(cells[::2], cells[1::2], strict=True):
            assert ln.run.config.norm == Norm.own()
            assert dyt.run.config.norm != Norm.own()
            assert ln.run.config.command == dyt.run.config.command
            assert set(recipe.table.labels) >= {ln.row}


OFFICIAL = {
    "official_table02": {
        "mae_vit_b/pretrained": (64, 800, 48),
        "mae_vit_b": (32, 100, 12),
        "mae_vit_l/pretrained": (64, 800, 48),
        "mae_vit_l": (32, 50, 12),
        "dino_b16": (32, 400, 96),
        "dino_b8": (176, 300, 96),
    },
    "official_table03": dict.fromkeys(("dit_b4", "dit_l4", "dit_xl2"), (8, 400_320, 60)),
    "official_table05": {
        "wav2vec2_base": (64, 400_000, 40),
        "wav2vec2_large": (128, 250_000, 56),
    },
    "official_table06": {"hyenadna": (8, 10_000, 24), "caduceus": (8, 50_000, 24)},
}
"""Recipe → script → its processes, its epochs or steps, and the hours that it asks for."""


def scripts(page):
    """Place → (config, resources) of a recipe's scripts at paper scale."""
    recipe = recipes.load(str(page))
    scale = recipe.scale("paper")
    return {
        place: (run.config, scale.resource_overrides.get(place, scale.resources))
        for cell in recipe.table.cells(scale)
        for place, run in runs_with_needs(cell.run, cell.row)
        if isinstance(run.config, Script)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_official_recipe_asks_for_the_processes_and_hours_of_its_scripts(page):
    found = {
        place: (config.processes, config.total, resources.minutes / 60)
        for place, (config, resources) in scripts(page).items()
    }
    assert found == OFFICIAL[page.stem]
    for config, resources in scripts(page).values():
        assert config.processes == resources.gpus
        assert config.torchrun == (page.stem == "official_table06")


def difference(one, other):
    """Return the words of a command that differ from those at the same place in another."""
    return [a for a, b in zip(one.command, other.command, strict=True) if a != b]


def test_official_large_networks_differ_from_base_as_their_readmes_say():
    """FINETUNE.md of MAE, and the published arguments of DINO."""
    found = {place: config for place, (config, _) in scripts(PAGES[0]).items()}
    tune_l = difference(found["mae_vit_l"], found["mae_vit_b"])
    assert tune_l == ["vit_large_patch16", "50", "1e-3", "0.75", "0.2"]
    pretrain_l = difference(found["mae_vit_l/pretrained"], found["mae_vit_b/pretrained"])
    assert pretrain_l == ["mae_vit_large_patch16"]
    b8 = difference(found["dino_b8"], found["dino_b16"])
    assert b8 == ["8", "300", "6", "0.0005", "0.03", "3.0"]


def test_official_batches_of_table_6_have_a_million_bases():
    found = {
        place: {w.partition("=")[0]: w.partition("=")[2] for w in config.command}
        for place, (config, _) in scripts(PAGES[-1]).items()
    }
    sizes = ("max_length", "batch_size")
    for row, length, batch, global_batch, interval in (
        ("hyenadna", "1024", "128", "1024", "2000"),
        ("caduceus", "131072", "1", "8", "10000"),
    ):
        assert [found[row][f"dataset.{name}"] for name in sizes] == [length, batch]
        assert found[row]["train.global_batch_size"] == global_batch
        assert found[row]["+trainer.val_check_interval"] == interval


def test_json_lines_parser_joins_repeated_steps(tmp_path):
    (tmp_path / "log.txt").write_text(
        '{"epoch": 0, "loss": 3}\nno JSON\n[1]\n{"loss": 1}\n{"epoch": 1, "loss": "2.5"}\n'
        '{"epoch": 0, "loss": 4, "acc": NaN, "name": "x", "flag": true}\n'
    )
    first, second = json_lines("*.txt")(tmp_path, [])
    assert math.isnan(first.pop("acc"))
    assert first == {"step": 0, "epoch": 0, "loss": 4}
    assert second == {"step": 1, "epoch": 1, "loss": 2.5}
    assert json_lines("missing.txt")(tmp_path, []) == []


def test_printed_json_parser_skips_text_before_it(tmp_path):
    printed = ['[2026][train_inner][INFO] - {"epoch": 1, "update": 0.5, "loss": "6.1"}', "{x", "-"]
    assert printed_json("update")(tmp_path, printed) == [{"step": 0.5, "epoch": 1, "loss": 6.1}]


def test_log_of_fairseq_is_read_by_updates(tmp_path):
    printed = [
        '[x][train_inner][INFO] - {"epoch": 1, "update": 0.4, "loss": "6.1", "num_updates": "200"}',
        '[x][valid][INFO] - {"epoch": 1, "valid_loss": "5.9", "valid_num_updates": "200"}',
        '[x][train][INFO] - {"epoch": 1, "train_loss": "6", "train_num_updates": "500"}',
    ]
    facts = UPSTREAMS["fairseq"].scripts["-m fairseq_cli.hydra_train"]
    assert facts.records(tmp_path, printed) == [
        {"step": 200, "epoch": 1, "update": 0.4, "loss": 6.1, "valid_loss": 5.9}
    ]


@pytest.mark.parametrize(
    ("upstream", "line", "record"),
    [
        ("nanogpt", "step 20: train loss 4.1, val loss 4.2", {"train_loss": 4.1, "val": 4.2}),
        ("dit", "[x] (step=0000020) Train Loss: 0.25, Train Steps/Sec: 1", {"train_loss": 0.25}),
    ],
)
def test_text_parsers_read_the_logs_of_upstreams(tmp_path, upstream, line, record):
    (tmp_path / "000-DiT").mkdir()
    (tmp_path / "000-DiT" / "log.txt").write_text(f"{line}\nanother line\n")
    facts = UPSTREAMS[upstream].scripts["train.py"]
    assert facts.records(tmp_path, [line, "another line"]) == [{"step": 20, **record}]


BAR = """
Sanity Checking DataLoader 0: 100%|██████████| 2/2 [00:00<00:00,  3.02it/s]
Epoch 0:   0%|          | 0/16 [00:00<?, ?it/s]
Epoch 0:  12%|█▎        | 2/16 [00:31<03:41, 15.83s/it, loss=2.77]
Epoch 0: 100%|██████████| 16/16 [04:13<00:00, 15.84s/it, loss=2.5]
Epoch 0: 100%|██████████| 16/16 [04:20<00:00, 16.2s/it, loss=2.5, val/loss=2.410, train/loss=2.610]
Epoch 0:   0%|          | 0/16 [00:00<?, ?it/s, loss=2.5, val/loss=2.410, train/loss=2.610]
Epoch 1:   0%|          | 0/16 [00:00<?, ?it/s, loss=2.5, val/loss=2.410, train/loss=2.610]
Epoch 1:  12%|█▎        | 2/16 [00:31<03:41, 15.8s/it, loss=2.4, val/loss=2.410, train/loss=2.610]
Epoch 1:  25%|██▌       | 4/16 [00:63<03:10, 15.8s/it, loss=nan, val/loss=2.410, train/loss=2.610]
Epoch 1:  31%|███       | 5/16 [00:79<02:54, 15.8s/it, loss=nan, val/loss=2.410, train/loss=2.610]
"""


def test_lightning_bar_counts_batches_over_epochs(tmp_path):
    records = UPSTREAMS["caduceus"].scripts["-m train"].records(tmp_path, BAR.splitlines())
    assert [(record["step"], record["epoch"]) for record in records] == [
        *((0, 0), (2, 0), (16, 1), (18, 1), (20, 1), (21, 1))
    ]
    assert records[2] == {"step": 16, "epoch": 1, "loss": 2.5, "val/loss": 2.41, "train/loss": 2.61}
    assert records[3] == {"step": 18, "epoch": 1, "loss": 2.4}, "only what has changed"
    assert math.isnan(records[4]["loss"])
    assert records[5].keys() == {"step", "epoch", "loss"}


def test_matches_parser_reads_printed_lines_without_a_file(tmp_path):
    parse = matches(r"(?P<step>\d+) (?:a=(?P<a>\S+)|b=(?P<b>\S+))")
    (record,) = parse(tmp_path, ["1 a=2", "1 b=nan", "x"])
    assert math.isnan(record.pop("b"))
    assert record == {"step": 1, "a": 2}


def test_records_are_in_the_order_of_their_steps():
    records = [{"step": 3.0, "a": 1.0}, {"step": 1.0, "a": 2.0}, {"step": 3.0, "b": 4.0}]
    assert latest_by_step(records) == [{"step": 1, "a": 2}, {"step": 3, "a": 1, "b": 4}]
    assert records == [{"step": 3, "a": 1}, {"step": 1, "a": 2}, {"step": 3, "b": 4}]


def test_renamed_leaves_out_other_numbers():
    assert renamed({"step": 1, "x": 2, "y": 3}, {"y": "ours", "z": "none"}) == {"ours": 3}
