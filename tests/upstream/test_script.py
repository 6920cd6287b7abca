"""Tests of the task that runs an unmodified training script."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from dyt import Norm, replacing
from dyt_upstream import miniature as package
from dyt_upstream.initial_state import recorded_initial_state
from dyt_upstream.miniature.train import Adder
from dyt_upstream.records import json_lines, printed_json
from dyt_upstream.script import run
from matched import signals
from matched.signals import Interrupted
from matched.task import Context
from matched.training.fingerprint import batch_digest, digest_of, weights_digest

LOG = """
import json, os, sys
def log(**values):
    with open(os.path.join(sys.argv[1], "log.txt"), "a") as file:
        file.write(json.dumps(values) + "\\n")
"""
NET = f"""
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(2, 4)).sum().backward()
optimizer.step()
{LOG}
"""


def test_network_of_the_miniature_predicts_from_the_mean_over_positions():
    adder = Adder(10, 0)
    with torch.no_grad():
        adder.head.weight.copy_(torch.eye(10))
        adder.head.bias.zero_()
        adder.position[0, 2] = torch.arange(10.0)
    digits = torch.tensor([[1, 9, 4], [0, 0, 7]])
    x = adder.embedding(digits) + adder.position
    rows = adder.norm(x)
    torch.testing.assert_close(adder(digits), (rows[:, 0] + rows[:, 1] + rows[:, 2]) / 3)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def own_run(miniature, tmp_path_factory):
    """Directory and outcome of two epochs with the norm of the script."""
    directory = tmp_path_factory.mktemp("own")
    where = Context(directory=directory, signature="own")
    return directory, run(where, miniature("--epochs", "2", norm=Norm.own()))


def test_script_own_norm_equals_the_plain_script(own_run, miniature, tmp_path):
    directory, outcome = own_run
    config = miniature("--epochs", "2", norm=Norm.own())
    folder = tmp_path / "plain"
    words = [
        word.format(seed=0, output=folder) if "{" in word else word for word in config.command[1:]
    ]
    script = Path(package.__file__).parent / "train.py"
    subprocess.run([sys.executable, str(script), *words], check=True, capture_output=True)
    assert lines(directory / "output" / "log.txt") == lines(folder / "log.txt")
    assert outcome.metrics["accuracy"] == lines(folder / "log.txt")[-1]["test_acc"]
    assert outcome.details["norms"] == {"Adder": 3}
    assert not outcome.diverged
    assert outcome.steps == 1
    metrics = lines(directory / "metrics.jsonl")
    assert [(line["step"], line["epoch"]) for line in metrics if "loss" in line] == [(0, 0), (1, 1)]


def test_script_pair_is_matched_in_weights_and_batches(own_run, context, miniature):
    own_directory, own_outcome = own_run
    outcome = run(context("DyT"), miniature("--epochs", "2", norm=Norm.dyt(2.0)))
    directory = context("DyT").directory
    fingerprint = json.loads((directory / "fingerprint.json").read_text())
    assert fingerprint == json.loads((own_directory / "fingerprint.json").read_text())
    assert len(fingerprint["batches"]) == 4
    assert len(set(fingerprint["batches"])) == 4
    assert outcome.metrics != own_outcome.metrics
    rows = json.loads((directory / "norms.json").read_text())["networks"]
    paths = [row["path"] for network in rows for row in network["replacements"]]
    assert paths == ["blocks.0.norm1", "blocks.0.norm2", "norm"]


class Network(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("inside", [False, True], ids=["before the step", "inside the step"])
@pytest.mark.parametrize(
    ("call", "inputs"),
    [
        ("model(x)", (1, -1, 2, -2)),
        ("model(x=x)", (1, -1, 2, -2)),
        ("model.forward(x)", (1, -1, -2)),  # the first one of a step
    ],
)
def test_recorded_initial_state_has_weights_and_the_inputs_of_steps(tmp_path, call, inputs, inside):
    """Lightning's forward passes are inside of the optimizer's step."""
    file = tmp_path / "state.json"
    with replacing(Norm.dyt(2.0)) as block, recorded_initial_state(block, file):
        model, teacher, other = Network(3), Network(2), nn.Linear(4, 1)
        weights = digest_of(weights_digest(network, ["body.1"]) for network in (model, teacher))
        optimizer = torch.optim.SGD([*model.parameters(), *teacher.parameters()], lr=0.1)

        def forward_and_backward(step):
            for micro_batch in (1, 2):
                x = torch.full((2, 4), micro_batch * 10.0 ** (step % 3))
                eval(call, {"model": model, "x": x}).sum().backward()
                (teacher(-x).sum() + other(x).sum()).backward()
            with torch.no_grad():
                model(x + 5)

        for step in range(7):
            if inside:
                optimizer.step(partial(forward_and_backward, step))
            else:
                forward_and_backward(step)
                optimizer.step()
    batches = [
        digest_of(batch_digest(torch.full((2, 4), value * scale)) for value in inputs)
        for scale in (1.0, 10.0, 100.0, 1.0)
    ]
    assert json.loads(file.read_text()) == {"weights": weights, "batches": batches}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_script_fingerprint_depends_on_the_seed(context, miniature):
    prints = []
    for seed in (0, 1):
        run(context(f"{seed}"), miniature("--epochs", "1", seed=seed))
        prints.append(json.loads((context(f"{seed}").directory / "fingerprint.json").read_text()))
    assert prints[0]["weights"] != prints[1]["weights"]
    assert not set(prints[0]["batches"]) & set(prints[1]["batches"])


@pytest.mark.slow
def test_script_resumes_from_its_own_checkpoint(context, miniature):
    whole = run(context("whole"), miniature("--epochs", "3"))
    run(context("cut"), miniature("--epochs", "2"))
    weights = json.loads((context("cut").directory / "fingerprint.json").read_text())
    outcome = run(context("cut"), miniature("--epochs", "3"))
    assert outcome.metrics == whole.metrics
    command = json.loads((context("cut").directory / "script.json").read_text())["command"]
    assert command[-2:] == [
        "--resume",
        str(context("cut").directory / "output" / "checkpoint-1.pth"),
    ]
    assert json.loads((context("cut").directory / "fingerprint.json").read_text()) == weights
    metrics = [context(name).directory / "metrics.jsonl" for name in ("whole", "cut")]
    assert metrics[0].read_text() == metrics[1].read_text()
    assert [line["step"] for line in lines(metrics[0]) if "loss" in line] == [0, 1, 2]


PRINTS = (
    NET
    + """
checkpoint = os.path.join(sys.argv[1], "last.pt")
first = torch.load(checkpoint) + 1 if os.path.exists(checkpoint) else 1
for step in range(first, first + 3):
    print(json.dumps({"step": step, "loss": 1 / step, "acc": step}), flush=True)
    torch.save(min(step, first + 1), checkpoint)
sys.exit(0 if first > 1 else 1)
"""
)
"""Ends after three steps, of which the last is not in its checkpoint; only its start fails."""


@pytest.mark.slow
def test_metrics_of_a_resumed_script_that_prints_its_log(context, checkout, own):
    folder = checkout(PRINTS, records=printed_json("step"), checkpoints="*.pt")
    here = context(data={"upstream.own": folder})
    with pytest.raises(ValueError, match="ended with status 1"):
        run(here, own())
    outcome = run(here, own())
    assert (outcome.steps, outcome.metrics["acc"]) == (5, 5)
    losses = [line for line in lines(here.directory / "metrics.jsonl") if "loss" in line]
    assert [(line["step"], line.get("attempt", 1)) for line in losses] == [
        (1, 1), (2, 1), (3, 2), (4, 2), (5, 2),
    ]  # fmt: skip


@pytest.mark.slow
def test_progress_of_a_script_that_prints_its_log(context, checkout, own, monkeypatch):
    """Each step of its checkpoints lets a job be requeued; metrics.jsonl survives a kill."""
    monkeypatch.setattr("dyt_upstream.script.SECONDS_BETWEEN_READINGS", 0.0)
    monkeypatch.setattr("dyt_upstream.script.SECONDS_BETWEEN_WRITINGS", 0.0)
    wait = "import time\nwhile not os.path.exists(sys.argv[1] + '/go'): time.sleep(0.05)\n"
    text = PRINTS.replace("sys.exit(0 if first > 1 else 1)", wait)
    folder = checkout(text, records=printed_json("step"), checkpoints="*.pt")
    here = context(data={"upstream.own": folder})
    seen = []

    def watch():
        marker = here.directory / "checkpoints" / "step_3"
        metrics = here.directory / "metrics.jsonl"
        while not (marker.exists() and metrics.exists() and len(metrics.read_text()) > 100):
            time.sleep(0.05)
        seen.extend(lines(metrics))
        (here.directory / "output" / "go").touch()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    run(here, own())
    thread.join(10)
    assert [line["step"] for line in seen if "loss" in line] == [1, 2, 3]


@pytest.mark.slow
def test_script_divergence_is_a_result(context, miniature):
    outcome = run(context(), miniature("--epochs", "3", "--lr", "1e20"))
    assert outcome.diverged


@pytest.mark.usefixtures("without_runner")
def test_script_stops_with_everything_it_started(context, checkout, own, monkeypatch):
    folder = checkout(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(os.path.join(sys.argv[1], 'pids'), 'w').write(f'{os.getpid()} {child.pid}\\n')\n"
        "time.sleep(60)\n"
    )
    here = context(data={"upstream.own": folder})

    def stop_when_started():
        pids = here.directory / "output" / "pids"
        while not (pids.exists() and pids.read_text().endswith("\n")):
            time.sleep(0.1)
        monkeypatch.setattr(signals, "_received", [signal.SIGUSR2])

    thread = threading.Thread(target=stop_when_started, daemon=True)
    thread.start()
    with pytest.raises(Interrupted):
        run(here, own())
    thread.join()
    pids = (here.directory / "output" / "pids").read_text().split()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.slow
def test_script_warns_of_another_commit_and_of_changes(context, checkout, own):
    folder = checkout(NET + "log(epoch=0, acc=1.5, loss=2.5)\n")
    outcome = run(context(data={"upstream.own": folder}), own())
    commit = outcome.details["commit"]
    assert (outcome.details["warnings"], outcome.metrics) == ([], {"acc": 1.5, "loss": 2.5})
    with (folder / "train.py").open("a") as file:
        file.write("log(epoch=1, acc=2.5)\n")
    outcome = run(context("other", data={"upstream.own": folder}), own(commit="0" * 40))
    assert outcome.details["warnings"] == [
        f"own: the checkout is at commit {commit[:12]}, not 000000000000 as in the recipe",
        "own: uncommitted changes in train.py",
    ]
    assert outcome.metrics["acc"] == 2.5
    assert outcome.details["changed"] == ["train.py"]


@pytest.mark.slow
def test_script_that_logs_updates_has_no_epochs(context, checkout, own):
    folder = checkout(NET + "log(update=30, loss=1.5, acc=2)", records=json_lines("*", "update"))
    here = context(data={"upstream.own": folder})
    assert run(here, own()).steps == 30
    assert lines(here.directory / "metrics.jsonl") == [
        {"step": 30, "loss": 1.5},
        {"step": 30, "evaluation": {"acc": 2}},
    ]


WITHOUT_RESULT = {
    "{net}log(epoch=0, loss=1)": r"status 0, but its log has no acc; it has loss",
    "{net}": r"status 0, but its log has no acc; it has no record",
    "import no_such_module": "own needs the Python module 'no_such_module', which is not",
    "raise KeyError('x')": "train.py ended with status 1: KeyError: 'x'",
    "import sys; sys.exit(5)": "train.py ended with status 5: it printed nothing",
}
"""Text of a script, where {net} builds a network and defines ``log`` → why it has no result."""


@pytest.mark.usefixtures("without_runner")
@pytest.mark.parametrize(("text", "message"), WITHOUT_RESULT.items())
def test_script_without_a_result_fails(context, checkout, own, text, message):
    folder = checkout(text.replace("{net}", LOG))
    with pytest.raises(ValueError, match=message):
        run(context(data={"upstream.own": folder}), own())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"), [*WITHOUT_RESULT.items(), ("print(1)", "nothing was replaced")]
)
def test_script_in_the_runner_without_a_result_fails(context, checkout, own, text, message):
    folder = checkout(text.replace("{net}", NET))
    with pytest.raises(ValueError, match=message):
        run(context(data={"upstream.own": folder}), own())


def test_script_refuses_another_number_of_processes(context, miniature):
    with pytest.raises(ValueError, match=r"recipe is for 2 processes.*this job has 1"):
        run(context(), miniature(processes=2))


@pytest.mark.slow
def test_script_starts_from_the_checkpoint_of_a_need(context, checkout, own):
    folder = checkout(
        NET
        + "torch.save(1, os.path.join(sys.argv[1], 'last.pt'))\nlog(epoch=0, acc=len(sys.argv))\n",
        checkpoints="*.pt",
    )
    first = context("first", data={"upstream.own": folder})
    run(first, own())
    config = {"config": {"upstream": "own", "command": ["train.py"]}}
    (first.directory / "config.json").write_text(json.dumps(config))
    lists = context("lists").directory
    (lists / "config.json").write_text(json.dumps({"config": {"data": "speech"}}))
    needs = {"pretrained": first.directory, "lists": lists}
    second = context("second", data={"upstream.own": folder}, needs=needs)
    words = ("--from={needs.pretrained}", "--lists={needs.lists}/train")
    outcome = run(second, own(command=("train.py", "{output}", *words)))
    assert outcome.metrics["acc"] == 4
    command = json.loads((second.directory / "script.json").read_text())["command"]
    assert command[-2] == f"--from={first.directory / 'output' / 'last.pt'}"
    assert command[-1] == f"--lists={lists}/train", "of a run of another task, its directory"
    with pytest.raises(ValueError, match="needs no 'other'"):
        run(second, own(command=("train.py", "{needs.other}")))
