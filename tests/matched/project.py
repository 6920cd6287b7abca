"""A temporary project: paper.toml, a recipe, a site.toml, and ``matched`` in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from matched import Run, job_status, lease, planning, recipes, site
from matched.cli import main
from matched.files import write_json
from matched.run_directory import RunDirectory
from matched.status import JobRecord
from matched.table import runs_with_needs
from matched.task import write_progress

STAND_INS = Path(__file__).parent / "stand_ins"
SOURCES = Path(__file__).parents[2] / "shared" / "matched" / "src"
"""First on the path of processes, so that they import this checkout and no installed package."""

HASTE = {"watch.POLL_SECONDS": 0.05, "lease.POLL": 0.05}
"""Shortened intervals of the harness in processes that tests start: see stand_ins/tiny.py."""

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

from matched import Arm, ArmNorms, Metric, Resources, Run, Scale, Table
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
    """A folder that ``matched`` uses as its project."""

    stand_ins = STAND_INS
    checkout = Path(__file__).parents[2]

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.capsys = capsys
        self.leases: list[lease.Lease] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.programs = root / "bin"
        self.programs.mkdir()
        for name in ("cat", "env", "git", "sh", "sleep", "true"):
            (self.programs / name).symlink_to(shutil.which(name))
        self.environment = {
            # No other program of this host, which may have a Slurm.
            "PATH": str(self.programs),
            "PYTHONPATH": f"{STAND_INS}:{STAND_INS / 'no_torch'}:{SOURCES}",
            "MATCHED_ROOT": str(root),
            "HOME": str(root),
            "OMP_NUM_THREADS": "1",
            "TINY_HASTE": json.dumps(HASTE),
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
        """Write a recipe: HEAD and ``text``."""
        return self.write(f"recipes/{name}.py", HEAD.lstrip() + text + "\n")

    def site(self, text: str) -> Path:
        return self.write("site.toml", text)

    def trouble(self, what: str, *names: str) -> None:
        """Make the runs "<model>.<norm>.<seed>" do ``what``; see stand_ins/tiny.py."""
        for name in names:
            self.write(f"trouble/{name}", what)

    def no_trouble(self) -> None:
        for path in (self.root / "trouble").iterdir():
            path.unlink()

    def program(self, name: str, script: str) -> None:
        """Write a shell script that stands in for a program on PATH."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``matched`` as a process."""
        process = subprocess.Popen(
            [sys.executable, "-m", "matched", *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Background jobs of a shell ignore Ctrl-C, and their children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.processes.append(process)
        return process

    def meeting(self, haste: dict[str, float] | None = None) -> None:
        """Let the processes of one run communicate, which takes the real torch.

        Args:
            haste: shortened intervals; see stand_ins/tiny.py.
        """
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        self.environment.update(
            PYTHONPATH=f"{STAND_INS}:{SOURCES}",
            MASTER_ADDR="localhost",
            MASTER_PORT=port,
            TINY_HASTE=json.dumps(HASTE | (haste or {})),
            TINY_BARE="1",
        )

    def end(self) -> None:
        """Release all leases and end all processes, also after a failed test."""
        (self.root / "go").touch()  # ends tasks in processes that are not children
        for owned in self.leases:
            owned.release()
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its jobs too, which hold its pipes
                process.communicate()

    def compute(self, *arguments: str, code: int = 0) -> str:
        """Run ``matched`` as a process, and return what it prints on both streams."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return _checked(process.returncode, out, err, code)

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Run ``matched`` in this process, for commands that compute nothing; return the output."""
        out, err, returned = self._main(arguments)
        return _checked(returned, out, err, code)

    def mistake(self, *arguments: str) -> str:
        """Return the one line with which ``matched`` refuses."""
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

    def plan(self, table: str = "table1", scale: str = "smoke") -> planning.Plan:
        """Return the plan as this process makes it."""
        recipe = recipes.load(table)
        return planning.make_plan(recipe, recipe.scale(scale), site.read(self.root / site.FILE))

    def directory(self, name: str) -> RunDirectory:
        """Return the directory of the run "<model>.<norm>.<seed>" of table1 at smoke scale."""
        recipe = recipes.load("table1")
        for cell in recipe.table.cells(recipe.scale("smoke")):
            for _, run in runs_with_needs(cell.run, cell.row):
                if _name(run) == name:
                    return RunDirectory(site.read(self.root / site.FILE).runs_folder, run)
        raise AssertionError(f"no run {name}")

    def states(self) -> dict[str, str]:
        """Return the state of every run, by "<model>.<norm>.<seed>"."""
        return {_name(planned.run): str(planned.status.state) for planned in self.plan().runs}

    def finish(
        self,
        name: str,
        outcome: str = "done",
        prints: bool = True,
        hardware: str = "",
        **metrics: float,
    ) -> RunDirectory:
        """Write the directory of a finished run without computing it."""
        directory = self.directory(name)
        directory.prepare()
        if prints:
            alike = {"weights": "w" * 16, "batches": ["b" * 16]}
            write_json(directory / "fingerprint.json", alike)
        result = {"outcome": outcome, "metrics": metrics, "steps": 3, "hardware": hardware}
        directory.write_result(result)
        return directory

    def finish_seeds(
        self,
        model: str,
        ln: Sequence[float | None] = (),
        dyt: Sequence[float | None] = (),
        metric: str = "top1",
    ) -> None:
        """Finish the runs of a model, by norm, with the metric of each seed; skip None."""
        for norm, values in (("LN", ln), ("DyT", dyt)):
            for seed, value in enumerate(values):
                if value is not None:
                    self.finish(f"{model}.{norm}.{seed}", **{metric: value})

    def given(
        self, name: str, cluster: str = "slurm", job_id: str = "41", token: str = "t1", **more: str
    ) -> RunDirectory:
        """Give the run to that job, which has not started it."""
        directory = self.directory(name)
        directory.prepare()
        directory.write_job(self.job(cluster, job_id, token, **more))
        return directory

    def begun(self, name: str, *job: str, **more: str) -> RunDirectory:
        """Give the run to that job, which has started it; ``job`` as for ``given``."""
        directory = self.given(name, *job, **more)
        self.owned(directory, self.job(*job, **more))
        write_progress(directory.path, 1, 10)
        return directory

    def owned(self, directory: RunDirectory, job: JobRecord) -> lease.Lease:
        """Let that job own the run directory until the test ends."""
        owned = lease.acquire(directory.path, job)
        self.leases.append(owned)
        return owned

    def job(
        self, cluster: str = "slurm", job_id: str = "41", token: str = "t1", **more: str
    ) -> JobRecord:
        folder = self.root / "runs" / ".jobs" / job_id
        return replace(job_status.job_record(cluster, job_id, token, folder), **more)

    def wait_for(
        self,
        condition: Callable[[], object],
        *processes: subprocess.Popen[str],
        seconds: float = 30,
    ) -> None:
        """Wait until ``condition`` holds; ``processes`` must not end before."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [p.communicate() for p in processes if p.poll() is not None]
            assert not ended, f"a process ended too early: {ended}"
            assert time.monotonic() < deadline, f"condition not met within {seconds} s"
            time.sleep(0.02)

    def computed(self) -> list[str]:
        """Return the runs that the task was called for, in order."""
        path = self.root / "computed.txt"
        if not path.exists():
            return []
        return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()]

    def snapshot(self) -> dict[str, bytes]:
        """Return the content of every file of the runs folder, to check that nothing changed."""
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
