"""One start of a script without starting it: command, environment, progress, and the result."""

import json
import logging
import math
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dyt import Norm
from dyt_upstream import script
from dyt_upstream.checkout import open_checkout
from dyt_upstream.runner_options import USER_ERROR
from dyt_upstream.script import finite_metrics, newest
from dyt_upstream.upstreams import UPSTREAMS

from ..messages import refused


def log_lines(made, *records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    (made.output / "log.txt").write_text(text)


def metrics_lines(made):
    text = (made.context.directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


RECORDS = (
    {"epoch": 0, "loss": 3.0, "acc": 50.0},
    {"epoch": 1, "loss": 2.0, "acc": 70.0},
    {"epoch": 2, "loss": 1.0, "acc": 60.0},
    {"epoch": 3, "loss": 0.5},
)


def test_outcome_has_last_metrics_and_best_record(attempt):
    made = attempt()
    log_lines(made, *RECORDS)
    outcome = made.outcome()
    made._write_metrics(made._records())
    assert outcome.metrics == {"loss": 0.5, "acc": 60.0}
    assert outcome.best == {"step": 1, "epoch": 1, "loss": 2.0, "acc": 70.0}
    assert (outcome.steps, outcome.diverged) == (3, False)
    assert outcome.details["commit"] == made.checkout.commit and outcome.details["norms"] == {}
    assert metrics_lines(made) == [
        {"step": 0, "epoch": 0, "loss": 3.0},
        {"step": 0, "epoch": 0, "evaluation": {"acc": 50.0}},
        {"step": 1, "epoch": 1, "loss": 2.0},
        {"step": 1, "epoch": 1, "evaluation": {"acc": 70.0}},
        {"step": 2, "epoch": 2, "loss": 1.0},
        {"step": 2, "epoch": 2, "evaluation": {"acc": 60.0}},
        {"step": 3, "epoch": 3, "loss": 0.5},
    ]


def test_outcome_names_uncommitted_changes(attempt):
    made = attempt()
    (made.checkout.path / "train.py").write_text("changed")
    made.checkout = open_checkout("own", made.context.data, "")
    log_lines(made, *RECORDS)
    details = made.outcome().details
    assert details["changed"] == ["train.py"]
    assert details["warnings"] == ["own: uncommitted changes in train.py"]


def test_best_record_of_a_metric_that_is_better_lower(attempt):
    made = attempt(facts={"metrics": {"loss": "loss", "val": "val_loss"}}, metrics=("val_loss",))
    log_lines(made, *({"epoch": i, "val": value} for i, value in enumerate((2.0, 1.0, 3.0))))
    outcome = made.outcome()
    assert (outcome.best["val_loss"], outcome.metrics["val_loss"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("records", "lines", "status"),
    [
        ([*RECORDS, {"epoch": 4, "loss": math.nan}], [], 0),
        ([*RECORDS, {"epoch": 4, "loss": math.inf}], [], 1),
        (RECORDS, ["Loss is nan, stopping training"], 1),
        (RECORDS, ["Loss is -inf, stopping training"], 0),
    ],
)
def test_diverged_script_has_its_best_metrics(attempt, records, lines, status):
    made = attempt()
    log_lines(made, *records)
    made.lines, made.status = lines, status
    outcome = made.outcome()
    assert outcome.diverged and outcome.metrics == outcome.best
    assert outcome.best["acc"] == 70.0
    if len(records) > len(RECORDS):
        made._write_metrics(made._records())
        assert metrics_lines(made)[-1] == {"step": 4, "epoch": 4, "loss": None}


def test_script_that_diverged_at_once_has_no_metrics(attempt):
    made = attempt()
    made.lines, made.status = ["Loss is nan, stopping training"], 1
    outcome = made.outcome()
    assert (outcome.metrics, outcome.best, outcome.steps) == ({}, {}, 0) and outcome.diverged


@pytest.mark.parametrize(
    ("lines", "status", "message"),
    [
        ([], 1, "train.py ended with status 1: it printed nothing"),
        (["a", "b"], 2, "train.py ended with status 2: b"),
        (
            ["ValueError: no", "torch.Error: yes", "at line 3"],
            1,
            "train.py ended with status 1: torch.Error: yes",
        ),
        (["x Error: no", "end"], 1, "train.py ended with status 1: end"),
        (["dyt: error: no norm", "later"], USER_ERROR, "no norm"),
        (["text"], USER_ERROR, "train.py could not be started; see log.txt"),
        (
            ["ModuleNotFoundError: No module named 'apex'", "end"],
            1,
            "own needs the Python module 'apex', which is not installed in this environment; "
            "install what its README lists",
        ),
    ],
)
def test_failed_script_says_why(attempt, lines, status, message):
    made = attempt()
    log_lines(made, *RECORDS)
    made.lines, made.status = lines, status
    assert refused(made.outcome) == message


def test_log_without_the_metric_names_what_it_has(attempt):
    made = attempt()
    assert refused(made.outcome) == (
        "train.py ended with status 0, but its log has no acc; it has no record. See log.txt"
    )
    log_lines(made, {"epoch": 0, "test_acc": 5.0, "loss": 1.0})
    assert refused(made.outcome) == (
        "train.py ended with status 0, but its log has no acc; it has loss, test_acc. See log.txt"
    )


def test_placeholders_are_replaced_in_arguments(attempt, context):
    folder = context("need").directory
    (folder / "config.json").write_text('{"config": {"data": "speech"}}')
    command = ("train.py", "{output}/a", "{checkout}", "s={seed}", "{data.text}", "{needs.corpus}")
    facts = {"resume": ("--resume", "at={checkpoint}")}
    made = attempt(seed=7, needs={"corpus": folder}, facts=facts)
    made.config = replace(made.config, command=command, data=("upstream.own", "text"))
    checkout = made.checkout.path
    expected = [
        str(checkout / "train.py"),
        f"{made.output}/a",
        str(checkout),
        "s=7",
        str(checkout / "text"),
        str(folder),
    ]
    assert made._arguments(None) == expected
    assert made._arguments(checkout / "last.pt") == [
        *expected,
        "--resume",
        f"at={checkout}/last.pt",
    ]


def test_need_of_a_script_is_its_newest_checkpoint(attempt, context):
    folder = context("need").directory
    need = {"config": {"upstream": "own", "command": ["train.py"]}}
    (folder / "config.json").write_text(json.dumps(need))
    (folder / "output").mkdir()
    made = attempt(needs={"trained": folder}, facts={"checkpoints": "*.pt"})
    assert refused(made._path_of_need, "trained") == (
        f"{folder / 'output'} has no checkpoint '*.pt'"
    )
    for at, name in enumerate(("9.pt", "10.pt", "other.txt")):
        (folder / "output" / name).touch()
        os.utime(folder / "output" / name, (at, at))
    assert made._path_of_need("trained") == folder / "output" / "10.pt"
    assert refused(made._path_of_need, "tokens") == (
        "the command reads {needs.tokens}, but the run needs no 'tokens'"
    )


def test_newest_is_by_time_then_by_name(tmp_path):
    assert newest(tmp_path, "*") is None and newest(tmp_path, "") is None
    for name, at in (("a", 5), ("c", 3), ("b", 5)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    assert newest(tmp_path, "*").name == "b" and newest(tmp_path, "c*").name == "c"


def test_environment_has_the_seed_but_no_launcher(attempt, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("SOME_SETTING", "kept")
    made = attempt(seed=5, environment=(("PYTHONHASHSEED", "9"), ("A", "b")))
    found = made._environment()
    assert "RANK" not in found
    expected = {"SOME_SETTING": "kept", "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "9", "A": "b"}
    assert expected.items() <= found.items()
    made.config = replace(made.config, environment=())
    assert made._environment()["PYTHONHASHSEED"] == "5"


@pytest.mark.parametrize(("fresh", "rank"), [(True, 0), (False, 0), (True, 2)])
def test_specification_names_norm_seed_and_files(attempt, fresh, rank):
    made = attempt(norm=Norm.dyt(2.0), skip=("head*",), also=("A",), seed=3, rank=rank)
    path = made._write_specification(["train.py", "x"], fresh=fresh)
    directory = made.context.directory
    assert path == directory / ("script.json" if rank == 0 else "script.json.2")
    content = json.loads(path.read_text())
    assert Norm(**content.pop("norm")) == Norm.dyt(2.0)
    assert content == {
        "command": ["train.py", "x"],
        "skip": ["head*"],
        "also": ["A"],
        "seed": 3,
        "shims": "",
        "report": str(directory / "norms.json"),
        "fingerprint": str(directory / "first-steps.json") if fresh else "",
    }


@pytest.mark.parametrize("resumes", [True, False])
def test_restarted_script_resumes_or_starts_again(attempt, started, caplog, resumes):
    caplog.set_level(logging.INFO, "matched")
    facts = {"checkpoints": "*.pt", "resume": ("--resume={checkpoint}",), "resumes": resumes}
    made = attempt(facts=facts)
    (made.output / "last.pt").touch()
    made.compute()
    content = json.loads((made.context.directory / "script.json").read_text())
    resumed = content["command"][-1] == f"--resume={made.output / 'last.pt'}"
    assert resumed == resumes == (made.output / "last.pt").exists()
    assert (content["fingerprint"] == "") == resumes
    assert ("cannot resume and starts from the beginning" in caplog.text) != resumes
    assert (made.status, made.lines, started[0][1]) == (3, ["a line"], made.checkout.path)


def test_poll_shows_progress_and_marks_new_checkpoints(attempt, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    made = attempt(total=10, facts={"checkpoints": "*.pt"})
    made.process = SimpleNamespace(lines=list)
    folder = made.context.directory / "checkpoints"

    def poll(at):
        clock[0] = at
        made._poll()
        progress = made.context.directory / "progress.json"
        content = json.loads(progress.read_text()) if progress.exists() else {}
        return content.get("step"), content.get("steps"), sorted(p.name for p in folder.iterdir())

    assert poll(100.0) == (0, 10, [])
    log_lines(made, *RECORDS)
    assert poll(104.9) == (0, 10, []), "less than five seconds after the last reading"
    assert poll(105.0) == (3, 10, [])
    (made.output / "last.pt").touch()
    assert poll(110.0) == (3, 10, ["step_3"])
    log_lines(made, *RECORDS, {"epoch": 12, "loss": 1.0})
    assert poll(115.0) == (12, 12, ["step_12"])


def test_norms_are_counted_by_class_of_network(attempt):
    made = attempt()
    networks = [
        {"class": "A", "replacements": [1, 2]},
        {"class": "B", "replacements": []},
        {"class": "A", "replacements": [3]},
    ]
    (made.context.directory / "norms.json").write_text(json.dumps({"networks": networks}))
    assert made._norms() == {"A": 3}


def test_finite_metrics_leave_out_positions():
    record = {"step": 1, "epoch": 2, "loss": math.nan, "acc": 1.0, "top1": math.inf}
    assert finite_metrics(record) == {"acc": 1.0}


DEIT = {"checkpoints": "checkpoint-*.pth", "resume": ("--resume", "{checkpoint}")}
LIGHTNING = {
    "metrics": {"loss": "loss", "val/loss": "val_loss", "test/loss": "test_loss"},
    "checkpoints": "checkpoints/*.ckpt",
    "resume": ("train.ckpt={checkpoint}",),
}
FACTS = {
    ("miniature", "train.py"): {
        "metrics": {"train_loss": "loss", "test_acc": "accuracy"},
        "higher": ("accuracy",),
        **DEIT,
    },
    ("mae", "main_pretrain.py"): DEIT,
    ("mae", "main_finetune.py"): {
        "metrics": {"train_loss": "loss", "test_acc1": "top1", "test_acc5": "top5"},
        "higher": ("top1", "top5"),
        **DEIT,
    },
    ("dino", "main_dino.py"): {"checkpoints": "checkpoint*.pth"},
    ("dit", "train.py"): {"checkpoints": "*/checkpoints/*.pt", "resumes": False},
    ("hyenadna", "-m train"): LIGHTNING,
    ("caduceus", "-m train"): LIGHTNING,
    ("fairseq", "-m fairseq_cli.hydra_train"): {
        "metrics": {"loss": "loss", "valid_loss": "val_loss", "valid_accuracy": "accuracy"},
        "higher": ("accuracy",),
        "checkpoints": "checkpoints/checkpoint*.pt",
        "diverged": "Minimum loss scale reached",
    },
    ("nanogpt", "train.py"): {
        "metrics": {"train_loss": "loss", "val": "val_loss"},
        "checkpoints": "ckpt.pt",
        "resume": ("--init_from=resume",),
    },
}
"""(upstream, script) → facts other than the usual: a script that logs "train_loss" only."""


def test_facts_of_every_script():
    usual = {
        "metrics": {"train_loss": "loss"},
        "higher": (),
        "checkpoints": "",
        "resume": (),
        "resumes": True,
        "diverged": r"Loss is (nan|-?inf), stopping training",
    }
    found = {}
    for name, upstream in UPSTREAMS.items():
        for script_name, facts in upstream.scripts.items():
            found[name, script_name] = {key: getattr(facts, key) for key in usual}
    assert found == {key: {**usual, **facts} for key, facts in FACTS.items()}


def test_repository_commit_and_shims_of_every_upstream():
    found = {name: (u.repository, u.commit, u.shims) for name, u in UPSTREAMS.items()}
    assert found == {
        "miniature": ("", "", ""),
        "mae": (
            "facebookresearch/mae",
            "efb2a8062c206524e35e47d04501ed4f544c0ae8",
            "dyt_upstream.shims.mae",
        ),
        "dino": (
            "facebookresearch/dino",
            "7c446df5b9f45747937fb0d72314eb9f7b66930a",
            "dyt_upstream.shims.dino",
        ),
        "dit": ("facebookresearch/DiT", "ed81ce2229091fd4ecc9a223645f95cf379d582b", ""),
        "hyenadna": (
            "HazyResearch/hyena-dna",
            "d553021b483b82980aa4b868b37ec2d4332e198a",
            "dyt_upstream.shims.hyenadna",
        ),
        "caduceus": (
            "kuleshov-group/caduceus",
            "0060a6d8079b6a040fc55d505e15972a327b70a6",
            "dyt_upstream.shims.caduceus",
        ),
        "fairseq": (
            "facebookresearch/fairseq",
            "3d262bb25690e4eb2e7d3c1309b1e9c406ca4b99",
            "dyt_wav2vec.hydra_train",
        ),
        "nanogpt": ("karpathy/nanoGPT", "3adf61e154c3fe3fca428ad6bc3818b27a3b8291", ""),
    }
