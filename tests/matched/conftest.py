"""A project of its own for each test: paper.toml, a recipe, a site.toml, and ``matched`` in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from matched import Run, data, plans, recipes, site
from matched.cli import main
from matched.files import write_json
from matched.rundir import RunDirectory

STAND_INS = Path(__file__).parent / "stand_ins"

PAPER = """
[first]
title = "A paper"
venue = "Venue 2025"
prefix = ""

[first.table1]
caption = "Two models & two norms"
metrics = [{ key = "top1", label = "top-1", unit = "%", direction = "higher" }]
arms = ["LN", "DyT"]

[first.table1.rows.small]
label = "Small_1"
LN = { top1 = 82.3 }
DyT = { top1 = 82.5 }

[first.table1.rows.large]
label = "Large"
LN = { top1 = 58.5, diverged = true }
DyT = { diverged = true }

[second]
title = "An earlier paper"
venue = "Earlier 2025"
prefix = "early-"

[second.table1]
caption = "The earlier table"
metrics = [{ key = "fid", label = "FID", unit = "", direction = "lower" }]
arms = ["LN", "DyT"]

[second.table1.rows.small]
label = "Small"
"""

HEAD = '''
"""A recipe of the tests."""

from dataclasses import replace

from matched import Arm, Metric, Resources, Run, Scale, Table
from tiny import Config

SMALL = Run(task="tiny:train", config=Config(model="small"))
LARGE = Run(task="tiny:train", config=Config(model="large"))
ARMS = (Arm(name="LN", norm="LN"), Arm(name="DyT", norm="DyT"))


def scale(name="smoke", seeds=(0, 1), gpus=0, runs_per_job=1, minutes=30, **runs):
    resources = Resources(
        gpus=gpus, cpus=10, memory_gb=48, minutes=minutes, runs_per_job=runs_per_job
    )
    return Scale(name=name, seeds=seeds, runs=runs, resources=resources)

'''

TWO_ROWS = "TABLE = Table(arms=ARMS, scales=(scale(small=SMALL, large=LARGE),))"
ONE_ROW = "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))"


class Project:
    """A folder that ``matched`` takes for its project."""

    stand_ins = STAND_INS
    checkout = Path(__file__).parents[2]

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.capsys = capsys
        self.programs = root / "bin"
        self.programs.mkdir()
        for name in ("cat", "git", "sleep", "true"):
            (self.programs / name).symlink_to(shutil.which(name))
        self.environment = {
            # Nothing else of this machine: it may have a Slurm.
            "PATH": str(self.programs),
            "PYTHONPATH": f"{STAND_INS}:{STAND_INS / 'no_torch'}",
            "MATCHED_ROOT": str(root),
            "HOME": str(root),
            "OMP_NUM_THREADS": "1",
        }
        self.write("recipes/paper.toml", PAPER)
        self.site("[local]\nworkers = 1\n")
        self.recipe(TWO_ROWS)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def recipe(self, text: str, name: str = "first/table01") -> Path:
        """A recipe: the names of HEAD, and ``text``."""
        return self.write(f"recipes/{name}.py", HEAD.lstrip() + text + "\n")

    def site(self, text: str) -> Path:
        return self.write("site.toml", text)

    def trouble(self, what: str, *names: str) -> None:
        """What the runs "<model>.<norm>.<seed>" will do; see stand_ins/tiny.py."""
        for name in names:
            self.write(f"trouble/{name}", what)

    def no_trouble(self) -> None:
        for path in (self.root / "trouble").iterdir():
            path.unlink()

    def program(self, name: str, script: str) -> None:
        """A stand-in for a program, first on PATH."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """``matched`` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "matched", *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def compute(self, *arguments: str, code: int = 0) -> str:
        """What ``matched``, as a process of its own, prints on both streams."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return _checked(process.returncode, out, err, code)

    def cli(self, *arguments: str, code: int = 0) -> str:
        """What ``matched`` prints on both streams; here, for commands that compute nothing."""
        out, err, returned = self._main(arguments)
        return _checked(returned, out, err, code)

    def mistake(self, *arguments: str) -> str:
        """The one line with which ``matched`` refuses."""
        _, err, returned = self._main(arguments)
        assert returned == 2, err
        (line,) = err.splitlines()
        prefix = "matched: error: "
        assert line.startswith(prefix)
        return line.removeprefix(prefix)

    def _main(self, arguments: tuple[str, ...]) -> tuple[str, str, int]:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        return *self.capsys.readouterr(), exit.value.code

    def plan(self, table: str = "table1", scale: str = "smoke") -> plans.Plan:
        """The plan as this process sees it."""
        recipe = recipes.load(table)
        return plans.make(recipe, recipe.scale(scale), site.read(self.root / site.FILE))

    def directory(self, name: str) -> RunDirectory:
        """The directory of the run "<model>.<norm>.<seed>" of table1 at smoke scale."""
        recipe = recipes.load("table1")
        for cell in recipe.table.cells(recipe.scale("smoke")):
            if _name(cell.run) == name:
                return RunDirectory(site.read(self.root / site.FILE).runs_folder, cell.run)
        raise AssertionError(f"no run {name}")

    def states(self) -> dict[str, str]:
        """ "<model>.<norm>.<seed>" → state."""
        return {_name(item.run): str(item.standing.state) for item in self.plan().items}

    def finish(self, name: str, outcome: str = "done", prints: bool = True, **metrics: float):
        """Write the directory of a finished run without computing it."""
        directory = self.directory(name)
        directory.prepare()
        if prints:
            alike = {"weights": "w" * 16, "batches": ["b" * 16]}
            write_json(directory / "fingerprint.json", alike)
        directory.write_result({"outcome": outcome, "metrics": metrics, "steps": 3})
        return directory

    def computed(self) -> list[str]:
        """The runs that the task was really called for, in order."""
        path = self.root / "computed.txt"
        if not path.exists():
            return []
        return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()]

    def snapshot(self) -> dict[str, bytes]:
        """Every file of the runs folder, to see that nothing was written."""
        files = sorted((self.root / "runs").rglob("*"))
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    def json(self, path: Path) -> dict:
        return json.loads(path.read_text(encoding="utf-8"))


def _name(run: Run) -> str:
    return f"{run.config.model}.{run.config.norm}.{run.config.seed}"


def _checked(returned: int, out: str, err: str, code: int) -> str:
    assert returned == code, f"exit code {returned}\n{out}\n{err}"
    assert "Traceback" not in out + err
    return out + err


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    made = Project(tmp_path, capsys)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("MATCHED_SITE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_JOB_ID", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(STAND_INS)
    # A recipe written twice within a second would be taken from its bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    _forget()
    yield made
    _forget()


def _forget() -> None:
    for cached in (recipes.root, recipes.numbers, recipes.available, data.registered):
        cached.cache_clear()


@pytest.fixture
def one_row(project):
    project.recipe(ONE_ROW)
    return project
