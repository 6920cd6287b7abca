"""The runner, which seeds a process, replaces norms and runs a script, without a real script."""

import random
import signal
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dyt import Norm, ReplacementError
from dyt.script_runner import ScriptError
from dyt_upstream import runner, runner_options

SPECIFICATION = {
    "command": ["train.py", "--epochs", "3"],
    "norm": vars(Norm.dyt(2.0)),
    "skip": ["head*"],
    "also": ["MyNorm"],
    "seed": 5,
    "shims": "shims_of_a_test",
    "report": "norms.json",
    "fingerprint": "first-steps.json",
}


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


@pytest.fixture
def calls(monkeypatch):
    """Replace everything that the runner calls by records of the calls, in their order."""
    made = []

    @contextmanager
    def replacing(norm, **options):
        made.append(("replacing", norm, options))
        yield "block"

    @contextmanager
    def recorded(block, file):
        made.append(("recorded", block, str(file)))
        yield

    monkeypatch.setattr(runner, "die_with_parent", lambda: made.append(("die with parent",)))
    monkeypatch.setattr(runner.importlib, "import_module", lambda name: made.append((name,)))
    monkeypatch.setattr(runner, "replacing", replacing)
    monkeypatch.setattr(runner, "recorded_initial_state", recorded)
    monkeypatch.setattr(runner, "run_as_main", lambda command: made.append((command, draws())))
    monkeypatch.delenv("RANK", raising=False)
    return made


def test_runner_seeds_and_replaces_before_the_script(calls):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = draws()
    assert runner.main(SPECIFICATION) == 0
    options = {"skip": ["head*"], "also": ["MyNorm"], "report_file": "norms.json"}
    assert calls == [
        ("die with parent",),
        ("shims_of_a_test",),
        ("replacing", Norm.dyt(2.0), options),
        ("recorded", "block", "first-steps.json"),
        (["train.py", "--epochs", "3"], expected),
    ]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_rank_0_records_the_initial_state(calls, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    runner.main({**SPECIFICATION, "shims": ""})
    names = [call[0] for call in calls]
    assert ("recorded" in names) == (rank == "0") and "shims_of_a_test" not in names


def test_resumed_script_records_no_initial_state(calls):
    runner.main({**SPECIFICATION, "fingerprint": ""})
    assert "recorded" not in [call[0] for call in calls]


@pytest.mark.parametrize("error", [ReplacementError("no norm"), ScriptError("no script")])
def test_mistake_in_a_recipe_is_the_last_printed_line(calls, monkeypatch, capfd, error):
    def run_as_main(command):
        raise error

    monkeypatch.setattr(runner, "run_as_main", run_as_main)
    assert runner.main(SPECIFICATION) == 64
    assert capfd.readouterr() == ("", f"dyt: error: {error}\n")


def test_die_with_parent_asks_for_a_kill(monkeypatch):
    asked = []
    monkeypatch.setattr(runner_options, "signal_at_parent_exit", asked.append)
    runner_options.die_with_parent()
    assert asked == [signal.SIGKILL]
    assert runner_options.RUNNER in sys.modules
