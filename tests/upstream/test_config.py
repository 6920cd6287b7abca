"""Tests of configs, facts about upstreams, log parsers and checkouts."""

import math

import pytest

from dyt_upstream.checkout import check_checkout
from dyt_upstream.config import Script
from dyt_upstream.records import json_lines, matches, printed_json
from dyt_upstream.upstreams import UPSTREAMS

VALID = {
    "upstream": "miniature",
    "command": ("train.py", "--output", "{output}"),
    "metrics": ("accuracy",),
    "data": ("upstream.miniature",),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upstream": "mea"}, "unknown upstream 'mea'; known are miniature, mae"),
        ({"command": ("trian.py",)}, "'trian.py' starts with no known script of miniature"),
        ({"metrics": ("top1",)}, "metrics top1 are not among those of train.py: loss, accuracy"),
        ({"data": ()}, "data must contain 'upstream.miniature'"),
        ({"command": ("train.py", "{outptu}")}, "unknown placeholder {outptu}"),
        ({"command": ("train.py", "{data.text}")}, "reads 'text', which is not in data"),
        ({"processes": 0}, "processes is 0"),
    ],
)
def test_script_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        Script(**{**VALID, **changes})


def test_script_config_keeps_braces_of_hydra():
    words = ("train.py", "model={a: 1, b: ${c}}", "{output}")
    assert Script(**{**VALID, "command": words}).command == words


def test_check_checkout_names_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"is not a folder; clone https://github.com/facebookres"):
        check_checkout("mae", tmp_path / "none")
    with pytest.raises(ValueError, match=r"is not a checkout of facebookresearch/mae: it has no"):
        check_checkout("mae", tmp_path)
    (tmp_path / "train.py").touch()
    check_checkout("hyenadna", tmp_path)


def test_json_lines_parser_joins_repeated_steps(tmp_path):
    (tmp_path / "log.txt").write_text(
        '{"epoch": 0, "loss": 3}\nno JSON\n[1]\n{"loss": 1}\n{"epoch": 1, "loss": "2.5"}\n'
        '{"epoch": 0, "loss": 4, "acc": NaN, "name": "x", "flag": true}\n'
    )
    first, second = json_lines("*.txt")(tmp_path, [])
    assert math.isnan(first.pop("acc"))
    assert (first, second) == ({"step": 0, "loss": 4}, {"step": 1, "loss": 2.5})
    assert json_lines("missing.txt")(tmp_path, []) == []


def test_printed_json_parser_skips_text_before_it(tmp_path):
    printed = ['[2026][train_inner][INFO] - {"epoch": 1, "update": 0.5, "loss": "6.1"}', "{x", "-"]
    assert printed_json("update")(tmp_path, printed) == [{"step": 0.5, "epoch": 1, "loss": 6.1}]


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


def test_progress_bar_of_lightning_is_read(tmp_path):
    line = (
        "Epoch 0:  12%|█▎   | 2/16 [00:31<03:41, 15.83s/it, loss=2.77, train/loss=2.770, "
        "train/num_tokens=252]"
    )
    facts = UPSTREAMS["hyenadna"].scripts["-m train"]
    assert facts.records(tmp_path, ["Epoch 0: 0/16", line]) == [{"step": 2, "train_loss": 2.77}]


def test_matches_parser_reads_printed_lines_without_a_file(tmp_path):
    parse = matches(r"(?P<step>\d+) (?:a=(?P<a>\S+)|b=(?P<b>\S+))")
    (record,) = parse(tmp_path, ["1 a=2", "1 b=nan", "x"])
    assert math.isnan(record.pop("b"))
    assert record == {"step": 1, "a": 2}
