"""Preemptions and simultaneous submissions on a private Slurm."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos_project import ROOT, Project, console, identical, row, wait_until, wrong_files

sys.path.insert(0, str(ROOT / "tests" / "slurm"))
PREEMPTIONS, RUNS = 10, 1000


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Any]:
    """Start a private cluster; None if Slurm is not installed."""
    from cluster import Cluster

    if reason := Cluster.obstacle():
        console.print(reason)
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Cluster(folder) as cluster:
        yield cluster


PAIR = """
SCALE = replace(SCALE, seeds=(0,), runs={"vit_b": SCALE.runs["vit_b"]},
                resources=replace(SCALE.resources, runs_per_job=1))
"""


def preemption(folder: Path, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    site = "[runs]\ncheckpoint_steps = 100\n[slurm]\npartition = 'main'\n"
    reference = Project(folder / "reference", site, PAIR)
    console.print("preemption: the undisturbed pair")
    assert reference.matched("submit", "table1", "--wait")[0] == 0
    with slurm(folder / "slurm") as cluster:
        if cluster is None:
            return [row("Slurm preemptions", "not measured: no Slurm", "", True)]
        total = num_same = number = 0
        while total < PREEMPTIONS:
            number += 1
            project = Project(folder / f"preempted-{number}", site, PAIR, **cluster.environment)
            console.print(f"preemption: {total} of {PREEMPTIONS}, project {number}")
            hits = _preempt_pair(project, cluster, rng)
            both_same = len(identical(project, reference)) == 2 and not wrong_files(project, 2)
            total += hits
            num_same += hits * both_same
    return [row("Slurm preemptions: runs that end bit-identical", f"{num_same} of {total}",
                 f"{PREEMPTIONS} of {PREEMPTIONS}", num_same == total >= PREEMPTIONS)]  # fmt: skip


def _preempt_pair(project: Project, cluster: Any, rng: random.Random) -> int:
    """Submit the pair and preempt it up to three times; return how many runs were interrupted."""
    code, out = project.matched("submit", "table1", "--cluster", "slurm")
    assert code == 0, out
    hits = 0
    for _ in range(3):
        wait_until(lambda: project.finished() == 2 or _training(project))
        time.sleep(rng.uniform(0, 2))
        unfinished = [p for p in project.runs().values() if not (p / "result.json").exists()]
        if not unfinished:
            break
        before = {path: _num_interruptions(path) for path in unfinished}
        job = cluster.submit("sleep 1", "--partition=urgent", "--nodes=4", "--exclusive")
        cluster.wait_until(lambda job=job: cluster.queue().get(job) == "COMPLETED", 120)
        hits += sum(_num_interruptions(path) > before[path] for path in unfinished)
    wait_until(lambda: project.finished() == 2, 300)
    return hits


def _training(project: Project) -> bool:
    """True if both runs are past their first steps."""
    paths = list(project.runs().values())
    steps = [json.loads((p / "progress.json").read_text())["step"] for p in paths
             if (p / "progress.json").exists()]  # fmt: skip
    return len(steps) == 2 and all(step > 0 for step in steps)


def _num_interruptions(path: Path) -> int:
    """Return how often a run was interrupted and had saved."""
    log = path / "log.txt"
    return log.read_text().count("interrupted after step") if log.exists() else 0


MANY = f"""
SCALE = replace(SCALE, seeds=tuple(range({RUNS // 2})), runs={{"vit_b": SCALE.runs["vit_b"]}})
"""


def submission(folder: Path, seed: int) -> list[dict[str, Any]]:
    site = "[slurm]\npartition = 'main'\n[slurm.options]\nbegin = 'now+1hour'\n"
    with slurm(folder / "slurm") as cluster:
        if cluster is None:
            return [row(f"submission of {RUNS} runs", "not measured: no Slurm", "", True)]
        alone = Project(folder / "alone", site, MANY, **cluster.environment)
        started = time.monotonic()
        code, out = alone.matched("submit", "table1", "--cluster", "slurm")
        seconds = time.monotonic() - started
        assert code == 0, out
        before = len(cluster.queue())
        both = Project(folder / "both", site, MANY, **cluster.environment)
        processes = [both.start("submit", "table1", "--cluster", "slurm") for _ in range(2)]
        outputs = [process.communicate()[0] for process in processes]
        jobs = len(cluster.queue()) - before
    started = sorted(int(out.split(" scale: ")[1].split(" of ")[0]) for out in outputs)
    return [
        row(f"submission of {RUNS} runs in {before} jobs to Slurm", f"{seconds:.1f} s", "10 s",
             seconds < 10),
        row("  two at the same time: runs started by each, total jobs",
             f"{started[0]} and {started[1]}, {jobs}", f"0 and {RUNS}, {before}",
             started == [0, RUNS] and jobs == before),
    ]  # fmt: skip
