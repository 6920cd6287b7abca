"""Fixtures: a private Slurm cluster per session, and a project that uses it per test."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matched.status import JobId

from .cluster import Cluster

CHECKOUT = Path(__file__).parents[2]
RECIPES = CHECKOUT / "recipes"

SHORT = """

# Shortened: some of the rows, smaller models, fewer epochs.


def short(run):
    size = {{"embed_dim": 16, "depth": 2, "num_heads": 2}}
    arguments = tuple((dict(run.config.model_args) | size).items())
    changes = dict(model_args=arguments, warmup_epochs=1, eval_epochs=1, log_steps=11)
    return replace(run, config=replace(run.config, **changes, **{config!r}))


SCALE = replace(
    SCALE,
    runs={{row: short(SCALE.runs[row]) for row in {rows!r}}},
    seeds={seeds!r},
    resources=replace(SCALE.resources, **{resources!r}),
)
"""

STATUS = re.compile(r"(\w+) · (\w+) · seed (\d+) +([0-9a-f]{12}) +(\w+)")


class Project:
    """A user's folder: the recipe of a table, its smoke scale shortened, and a site.toml.

    Runs are named "<row>.<arm>.<seed>", such as "vit_b.DyT.0".
    """

    table, page = "table1", "table01.py"

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.root = root
        self.cluster = cluster
        self.environment = {
            **cluster.environment,
            "MATCHED_ROOT": str(root),
            "OMP_NUM_THREADS": "1",
        }
        self._copy_recipe()
        self.recipe()
        self.site()

    def _copy_recipe(self) -> None:
        """Copy the table's recipe and what it imports, but not its smoke scale."""
        folder = self.root / "recipes" / "cvpr2025"
        (folder / "smoke").mkdir(parents=True)
        for path in (RECIPES / "paper.toml", *RECIPES.glob("*.py")):
            shutil.copy(path, folder.parent)
        for name in ("arms.py", self.page):
            shutil.copy(RECIPES / "cvpr2025" / name, folder)

    def write_smoke_scale(self, changes: str) -> None:
        """Write the page of the table's smoke scale with ``changes``, which redefine SCALE."""
        self._signatures: dict[str, str] = {}
        path = Path("recipes/cvpr2025/smoke") / self.page
        text = (CHECKOUT / path).read_text(encoding="utf-8")
        self.write(str(path), text + changes)

    def change_smoke_scale(self, changes: str) -> None:
        """Append lines to the page of the table's smoke scale."""
        with (self.root / "recipes/cvpr2025/smoke" / self.page).open("a") as file:
            file.write(changes)

    def recipe(
        self,
        rows: tuple[str, ...] = ("vit_b",),
        seeds: tuple[int, ...] = (0,),
        config: dict[str, Any] | None = None,
        **resources: int,
    ) -> None:
        """Write a smoke scale with these rows; ``resources`` are fields of Resources.

        An epoch has 44 steps, which take a process with one core half a second; its imports take
        three seconds.
        """
        changes = SHORT.format(
            rows=rows,
            seeds=seeds,
            config={"epochs": 2, **(config or {})},
            # submitit requests the signal 90 s before the limit; Slurm may be a minute early.
            resources={"minutes": 30, **resources},
        )
        self.write_smoke_scale(changes)

    def site(
        self,
        checkpoint_steps: int = 11,
        options: dict[str, str] | None = None,
        **slurm: str | int | list[str],
    ) -> None:
        """Write site.toml with these keys in [slurm]; runs of four processes need two nodes."""
        slurm = {"partition": "main", "gpus_per_node": 2, **slurm}
        sections = {
            "runs": {"checkpoint_steps": checkpoint_steps},
            "slurm": slurm,
            "slurm.options": options or {},
        }
        lines = []
        for name, keys in sections.items():
            lines.append(f"[{name}]")
            # Strings, integers and lists of strings are written alike in TOML and JSON.
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        self.write("site.toml", "\n".join(lines) + "\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command ``matched``, with both output streams in one."""
        return subprocess.Popen(
            [sys.executable, "-m", "matched", *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def matched(self, *arguments: str, code: int | None = 0, seconds: float = 90) -> str:
        """Return what the command ``matched`` prints; ``code`` None allows any exit code."""
        with self.start(*arguments) as process:
            try:
                output, _ = process.communicate(timeout=seconds)
            finally:
                process.kill()
        assert code in (None, process.returncode), f"{process.returncode}\n{output}"
        assert "Traceback" not in output, output
        return output

    def submit(self, *arguments: str, code: int = 0) -> str:
        """Run ``matched submit`` with the cluster."""
        return self.matched("submit", self.table, "--cluster", "slurm", *arguments, code=code)

    def states(self) -> dict[str, str]:
        """Map runs to their states as ``matched status`` prints them."""
        return {name: state for name, (_, state) in self._status().items()}

    def names(self) -> list[str]:
        return list(self._status())

    def directory(self, name: str) -> Path:
        """Return the run's directory, which exists once the run was submitted."""
        if name not in self._signatures:
            self._signatures = {name: signature for name, (signature, _) in self._status().items()}
        (path,) = (self.root / "runs").glob(f"*/{self._signatures[name]}")
        return path

    def _status(self) -> dict[str, tuple[str, str]]:
        """Map runs to (signature, state)."""
        output = self.matched("status", self.table, code=None)
        return {"{}.{}.{}".format(*line[:3]): (line[3], line[4]) for line in STATUS.findall(output)}

    def job(self, name: str) -> str:
        """Return the id of the Slurm job that the run was last given to."""
        return JobId.parse(self.file(name, "job.json")["job"]).job_id

    def file(self, name: str, file: str) -> dict[str, Any]:
        """Return the content of a JSON file of the run's directory, such as "result.json"."""
        return json.loads((self.directory(name) / file).read_text(encoding="utf-8"))

    def log(self, name: str) -> str:
        return (self.directory(name) / "log.txt").read_text(encoding="utf-8")

    def wait_for_step(self, name: str, step: int, seconds: float = 60) -> None:
        """Wait until the run has saved this step or a later one."""
        folder = self.directory(name) / "checkpoints"

        def saved() -> bool:
            return any(int(path.stem[5:]) >= step for path in folder.glob("step_*"))

        self.wait_until(saved, seconds)

    def wait_for_results(self, *names: str, seconds: float = 60) -> None:
        """Wait until these runs, or all, have finished."""
        paths = [self.directory(name) / "result.json" for name in names or self.names()]
        self.wait_until(lambda: all(path.exists() for path in paths), seconds)

    def wait_until(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait until the condition holds.

        Raises:
            RuntimeError: if the condition does not hold in time; with the output of the jobs.
        """
        try:
            self.cluster.wait_until(condition, seconds)
        except RuntimeError as error:
            for path in sorted((self.root / "runs" / ".jobs").rglob("*_log.*")):
                error.add_note(f"== {path.name}\n{path.read_text(encoding='utf-8')}")
            raise


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if reason := Cluster.obstacle():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(autouse=True)
def _clear_after_each_test(cluster):
    yield
    cluster.clear()


@pytest.fixture
def project(tmp_path, cluster):
    return Project(tmp_path, cluster)
