"""Fixtures of the upstream tests: contexts, and small scripts as checkouts."""

import importlib
import subprocess
import sys
import types

import pytest

from dyt import Norm
from dyt_upstream import script as script_task
from dyt_upstream import upstreams
from dyt_upstream.config import Script
from dyt_upstream.records import json_lines
from dyt_upstream.script import _Attempt
from dyt_upstream.upstreams import ScriptFacts, Upstream
from matched.task import Context

DYT = Norm.dyt(2.0)
TINY = ("--width", "16", "--depth", "1", "--steps", "4", "--batch-size", "8")


@pytest.fixture
def context(tmp_path):
    """Return a function that makes the context of a run directory."""

    def make(name="run", **options):
        directory = tmp_path / name
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        return Context(directory=directory, signature=name, **options)

    return make


@pytest.fixture
def without_runner(monkeypatch):
    """Start scripts by themselves: the runner, which replaces their norms, imports torch."""
    code = (
        "import json, runpy, sys; sys.argv = json.load(open(sys.argv[1]))['command']; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    def command(specification, processes, *, torchrun):
        return [sys.executable, "-c", code, str(specification)]

    monkeypatch.setattr(script_task, "runner_command", command)


@pytest.fixture(scope="session")
def miniature():
    """Return a function that makes the config of the miniature upstream."""

    def make(*arguments, norm=DYT, **options):
        command = ("train.py", *TINY, "--seed", "{seed}", "--output", "{output}", *arguments)
        return Script(
            upstream="miniature",
            command=command,
            metrics=("accuracy",),
            data=("upstream.miniature",),
            norm=norm,
            **options,
        )

    return make


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a function that makes a git checkout of one script, known as the upstream "own"."""

    def make(text, **facts):
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text(text)
        git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *command], check=True)
        options = {"records": json_lines("log.txt"), "metrics": {"loss": "loss", "acc": "acc"}}
        script = ScriptFacts(**{**options, **facts})
        own = Upstream(repository="somebody/own", commit="", scripts={"train.py": script})
        monkeypatch.setitem(upstreams.UPSTREAMS, "own", own)
        return folder

    return make


@pytest.fixture
def own():
    """Return a function that makes a config of the upstream "own"."""

    def make(**options):
        settings = {"command": ("train.py", "{output}"), "metrics": ("acc",), "norm": DYT}
        return Script(upstream="own", data=("upstream.own",), **{**settings, **options})

    return make


@pytest.fixture
def attempt(context, checkout, own):
    """Return a function that makes an attempt at the script of the upstream "own"."""

    def make(folder=None, needs=(), rank=0, facts=(), **options):
        folder = checkout("", higher=("acc",), **dict(facts))
        paths = {"upstream.own": folder, "text": folder / "text"}
        here = context(data=paths, needs=dict(needs), rank=rank, world_size=rank + 1)
        made = _Attempt(here, own(**options))
        made.output.mkdir(exist_ok=True)
        return made

    return make


@pytest.fixture
def started(monkeypatch):
    """Replace the process of a script by one that has ended; record how it was started."""
    calls = []

    class Ended:
        def __init__(self, command, folder, environment, on_line):
            calls.append((command, folder))

        def wait(self, on_poll):
            return 3

        def lines(self):
            return ["a line"]

    monkeypatch.setattr(script_task, "ScriptProcess", Ended)
    return calls


def module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    return made


@pytest.fixture
def load(monkeypatch):
    """Import a shim anew, with stand-ins for some modules; all is undone after the test."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))

    def load(name, **stand_ins):
        for stand_in in stand_ins.values():
            monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
        full = f"dyt_upstream.shims.{name}"
        monkeypatch.delitem(sys.modules, full, raising=False)
        loaded = importlib.import_module(full)
        monkeypatch.delitem(sys.modules, full)
        return loaded

    return load
