"""A Slurm for the whole session, and a project folder for each test whose runs it computes."""

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

RECIPE = """
'''Table 1 at smoke scale, made short: some of its rows, smaller models, fewer epochs.'''

import runpy
from dataclasses import replace

real = runpy.run_path({path!r})
(smoke,) = (scale for scale in real["TABLE"].scales if scale.name == "smoke")


def short(run):
    size = {{"embed_dim": 16, "depth": 2, "num_heads": 2}}
    arguments = tuple((dict(run.config.model_args) | size).items())
    changes = dict(model_args=arguments, warmup_epochs=1, eval_epochs=1, log_steps=11)
    return replace(run, config=replace(run.config, **changes, **{config!r}))


runs = {{row: short(smoke.runs[row]) for row in {rows!r}}}
resources = replace(smoke.resources, **{resources!r})
TABLE = replace(
    real["TABLE"],
    scales=(replace(smoke, runs=runs, seeds={seeds!r}, resources=resources),),
)
"""

STATUS = re.compile(r"(\w+) · (\w+) · seed (\d+) +([0-9a-f]{12}) +(\w+)")


class Project:
    """A user's folder: the recipe of a table, made short, and a site.toml for the cluster.

    Runs are called "<row>.<arm>.<seed>", such as "vit_b.DyT.0".
    """

    table = "table1"

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.root = root
        self.cluster = cluster
        self.environment = {
            **cluster.environment,
            "MATCHED_ROOT": str(root),
            "OMP_NUM_THREADS": "1",
        }
        (root / "recipes").mkdir()
        shutil.copy(CHECKOUT / "recipes" / "paper.toml", root / "recipes")
        self.recipe()
        self.site()

    def recipe(
        self,
        rows: tuple[str, ...] = ("vit_b",),
        seeds: tuple[int, ...] = (0,),
        config: dict[str, Any] | None = None,
        **resources: int,
    ) -> None:
        """Write the recipe: LN and DyT of these rows of ViTs, ``resources`` as recipes name them.

        An epoch has 44 steps and takes a process on a core of its own half a second; importing
        what it needs takes it three.
        """
        self._signatures: dict[str, str] = {}
        text = RECIPE.format(
            path=str(CHECKOUT / "recipes" / "cvpr2025" / "table01.py"),
            rows=rows,
            seeds=seeds,
            config={"epochs": 2, **(config or {})},
            # submitit has jobs told 90 s before their limit, and Slurm may be a minute early.
            resources={"minutes": 30, **resources},
        )
        self.write("recipes/cvpr2025/table01.py", text.lstrip())

    def site(
        self,
        checkpoint_steps: int = 11,
        options: dict[str, str] | None = None,
        **slurm: str | int | list[str],
    ) -> None:
        """Write site.toml with these keys in [slurm]; runs of four processes take two nodes."""
        slurm = {"partition": "main", "gpus_per_node": 2, **slurm}
        sections = {
            "runs": {"checkpoint_steps": checkpoint_steps},
            "slurm": slurm,
            "slurm.options": options or {},
        }
        lines = []
        for name, keys in sections.items():
            lines.append(f"[{name}]")
            # Strings, whole numbers and lists of strings look alike in TOML and in JSON.
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        self.write("site.toml", "\n".join(lines) + "\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command ``matched`` in a process of its own, both streams in one."""
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
        """What the command ``matched`` prints; None allows for any exit code."""
        with self.start(*arguments) as process:
            try:
                printed, _ = process.communicate(timeout=seconds)
            finally:
                process.kill()
        assert code in (None, process.returncode), f"{process.returncode}\n{printed}"
        assert "Traceback" not in printed, printed
        return printed

    def submit(self, *arguments: str, code: int = 0) -> str:
        """``matched submit`` to the cluster."""
        return self.matched("submit", self.table, "--cluster", "slurm", *arguments, code=code)

    def states(self) -> dict[str, str]:
        """Run → state, as ``matched status`` tells it."""
        return {name: state for name, (_, state) in self._status().items()}

    def names(self) -> list[str]:
        return list(self._status())

    def directory(self, name: str) -> Path:
        """The run's directory; there is one once it was submitted."""
        if name not in self._signatures:
            self._signatures = {name: signature for name, (signature, _) in self._status().items()}
        (path,) = (self.root / "runs").glob(f"*/{self._signatures[name]}")
        return path

    def _status(self) -> dict[str, tuple[str, str]]:
        """Run → signature, state."""
        shown = self.matched("status", self.table, code=None)
        return {"{}.{}.{}".format(*line[:3]): (line[3], line[4]) for line in STATUS.findall(shown)}

    def job(self, name: str) -> str:
        """Id of the Slurm job that the run was last given to."""
        return JobId.parse(self.file(name, "job.json")["job"]).job_id

    def file(self, name: str, file: str) -> dict[str, Any]:
        """A JSON file of the run's directory, such as "result.json"."""
        return json.loads((self.directory(name) / file).read_text(encoding="utf-8"))

    def log(self, name: str) -> str:
        return (self.directory(name) / "log.txt").read_text(encoding="utf-8")

    def wait_for_step(self, name: str, step: int, seconds: float = 60) -> None:
        """Until the run has saved this step or a later one."""
        folder = self.directory(name) / "checkpoints"

        def saved() -> bool:
            return any(int(path.stem[5:]) >= step for path in folder.glob("step_*"))

        self._wait_until(saved, seconds)

    def wait_for_results(self, *names: str, seconds: float = 60) -> None:
        """Until these runs, or all, have finished."""
        paths = [self.directory(name) / "result.json" for name in names or self.names()]
        self._wait_until(lambda: all(path.exists() for path in paths), seconds)

    def _wait_until(self, condition: Callable[[], object], seconds: float) -> None:
        """
        Raises:
            RuntimeError: in vain, with what was printed in the jobs.
        """
        try:
            self.cluster.wait_until(condition, seconds)
        except RuntimeError as error:
            for path in sorted((self.root / "runs" / ".jobs").rglob("*_log.*")):
                error.add_note(f"== {path.name}\n{path.read_text(encoding='utf-8')}")
            raise


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if why := Cluster.obstacle():
        pytest.skip(why)
    with Cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(autouse=True)
def _cleared(cluster):
    yield
    cluster.clear()


@pytest.fixture
def project(tmp_path, cluster):
    return Project(tmp_path, cluster)
