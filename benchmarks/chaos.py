"""Kills, preempts and starves real runs, and counts how many end as if nothing had happened.

    python benchmarks/chaos.py [kills] [disk] [preemption] [submission] [--seed 0]

kills: worker processes of Table 1 at smoke scale (all rows, 6 epochs) get SIGKILL at random
instants, half of them while a checkpoint is being written, and the table is submitted again.
disk: a file system of a few megabytes (mounting it takes root) is full while a checkpoint, and
while a result, is written.
preemption: jobs of a private Slurm are preempted by a partition of higher priority.
submission: a plan of 1,000 runs is submitted to that Slurm, twice at the same time.

The runs are then compared bit by bit with undisturbed ones: weights, optimiser, average, every
line of metrics.jsonl, result and fingerprint. Prints a table and a line of JSON; exit code 1 if a
bound is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from chaos_project import Project, identical, same, wrong_files
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "slurm"))
KILLS, PREEMPTIONS, RUNS = 50, 10, 1000
console = Console(stderr=True)


# --- kills


class Killer:
    """Watches the worker processes of a project and kills some of them."""

    def __init__(self, project: Project, chance: random.Random) -> None:
        self.project, self.chance = project, chance
        self.fates: dict[int, float] = {}
        self.hit: list[str] = []
        """The signature of the run at work, for each kill."""
        self.while_writing = 0

    def strike(self) -> None:
        """Kill whoever's time has come; to be called again and again, in short intervals."""
        for signature, path in self.project.runs().items():
            if (path / "result.json").exists():
                continue
            pid = self._worker(path)
            if pid is None:
                continue
            if pid not in self.fates:
                # Half die after some time at work, the others when they next write a checkpoint.
                wait = self.chance.uniform(0, 6)
                self.fates[pid] = time.monotonic() + wait if self.chance.random() < 0.5 else -wait
            fate = self.fates[pid]
            writing = bool(list(path.glob(f"checkpoints/.step_*.{pid}.tmp")))
            due = time.monotonic() > fate if fate > 0 else writing and self.chance.random() < 0.3
            if due:
                os.kill(pid, signal.SIGKILL)
                self.hit.append(signature)
                self.while_writing += writing
                self.fates[pid] = float("inf")

    @staticmethod
    def _worker(path: Path) -> int | None:
        from matched import lease

        owner = lease.owner(path)
        if not owner or not lease.alive(owner["place"]):
            return None
        return int(owner["place"]["pid"])


ALL_ROWS = """
def short(run):
    return replace(run, config=replace(run.config, epochs=6))

ROWS = {row: short(run) for row, run in SMOKE.runs.items()}
TABLE = replace(TABLE, scales=(replace(SMOKE, seeds=(0,), runs=ROWS),))
"""


def kills(folder: Path, seed: int) -> list[dict[str, Any]]:
    site = "[local]\nworkers = 2\n[runs]\ncheckpoint_steps = 10\n"
    reference = Project(folder / "reference", site, ALL_ROWS)
    console.print("kills: the undisturbed table")
    code, out = reference.matched("submit", "table1", "--wait")
    assert code == 0, out
    project = Project(folder / "killed", site, ALL_ROWS)
    killer = Killer(project, random.Random(seed))
    expected = reference.finished()
    while len(killer.hit) < KILLS and project.finished() < expected:
        project.matched("submit", "table1")
        asked = time.monotonic()
        while len(killer.hit) < KILLS and time.monotonic() < asked + 3:
            killer.strike()
            time.sleep(0.001)
        console.print(f"kills: {len(killer.hit)}, {project.finished()} runs finished")
    while project.finished() < expected:
        project.matched("submit", "table1", "--wait")
    good = set(identical(project, reference))
    alike = sum(signature in good for signature in killer.hit)
    return [
        _row("SIGKILL: runs that end bit-identical", f"{alike} of {len(killer.hit)}",
             f"{KILLS} of {KILLS}", alike == len(killer.hit) >= KILLS),
        _row("  while a checkpoint was being written", str(killer.while_writing), "", True),
        _row("  all runs of the table identical", f"{len(good)} of {expected}",
             f"{expected} of {expected}", len(good) == expected),
        _row("  result files lost, doubled or half-written", str(wrong_files(project, expected)),
             "0", wrong_files(project, expected) == 0),
    ]  # fmt: skip


# --- a full disk

ONE_RUN = """
RUN = SMOKE.runs["vit_b"]
SHORT = replace(RUN, config=replace(RUN.config, epochs=5))
TABLE = replace(TABLE, scales=(replace(SMOKE, seeds=(0,), runs={"vit_b": SHORT}),))
"""
LAST = ("step_00000200.pt", "step_00000220.pt")
CELL = ("run", "table1", "--row", "vit_b", "--arm", "LN")


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size.

    Raises:
        PermissionError: where it cannot be mounted.
    """
    folder.mkdir()
    answer = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
        capture_output=True,
    )
    if answer.returncode:
        raise PermissionError(answer.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk(folder: Path, seed: int) -> list[dict[str, Any]]:
    site = "[runs]\nfolder = '{}'\ncheckpoint_steps = 20\n"
    reference = Project(folder / "reference", site.format("runs"), ONE_RUN)
    console.print("disk: the undisturbed run")
    assert reference.matched(*CELL)[0] == 0
    (whole,) = reference.runs().values()
    rows = []
    moments = {"a checkpoint": _as_it_trains, "the result": _before_its_result}
    for what, step_info in moments.items():
        rows.append(_row(f"disk full at {what}", "missed the moment", "", False))
        for attempt in range(8):
            console.print(f"disk: full while {what} is written")
            try:
                with small_disk(folder / f"{what[-6:]}-{attempt}", 64 * 1024) as mount:
                    row = _full(mount, what, step_info, site, whole)
            except PermissionError as error:
                row = _row(f"disk full at {what}", f"not measured: {error}", "", True)
            if row is not None:
                rows[-1] = row
                break
    return rows


def _full(mount: Path, what: str, step_info: Any, site: str, whole: Path) -> dict[str, Any] | None:
    """Fill the disk while a run is at work, then make room and go on; None if that came late."""
    project = Project(mount.parent / f"project-{mount.name}", site.format(mount / "runs"), ONE_RUN)
    process = project.start(*CELL)
    (run,) = _wait(lambda: list(mount.glob("runs/*/*/checkpoints")))
    ballast = mount / "ballast"
    in_time = step_info(run, process.pid, ballast)
    out, _ = process.communicate()
    if not in_time:
        return None
    lines = [line for line in out.splitlines() if "matched: error:" in line]
    whole_before = all(_loads(path) for path in run.glob("step_*.pt"))
    told = process.returncode == 2 and len(lines) == 1 and "Traceback" not in out
    console.print(f"  it said: {lines[-1] if lines else out[-300:]}", highlight=False)
    ballast.unlink()
    code, _ = project.matched(*CELL)
    good = told and whole_before and code == 0 and same(run.parent, whole)
    words = "one clear line, the whole stays whole, ends bit-identically"
    return _row(f"disk full at {what}", words if good else f"exit {process.returncode}: {lines}",
                words, good)  # fmt: skip


def _as_it_trains(run: Path, pid: int, ballast: Path) -> bool:
    _wait(lambda: (run / "step_00000020.pt").exists())
    _fill(ballast, 700)
    return True


def _before_its_result(run: Path, pid: int, ballast: Path) -> bool:
    """Between the last checkpoint and the result lie a few milliseconds: stop the process there."""
    before, last = (run / name for name in LAST)
    _wait(before.exists)
    while not last.exists():
        pass
    os.kill(pid, signal.SIGSTOP)
    in_time = not (run.parent / "result.json").exists()
    if in_time:
        # Older checkpoints are about to be deleted, which frees no space while they are open.
        held = [path.open("rb") for path in run.glob("step_*.pt")]
        _fill(ballast, 0)
    os.kill(pid, signal.SIGCONT)
    if in_time:
        _wait(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid))
        for file in held:
            file.close()
    return in_time


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _fill(path: Path, leave_kilobytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    with contextlib.suppress(OSError), path.open("wb") as file:
        file.write(b"\0" * max(0, free - 1024 * leave_kilobytes))


def _loads(path: Path) -> bool:
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True


def _wait(look: Any, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise RuntimeError("waited in vain")
        time.sleep(0.01)
    return found


# --- Slurm


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Any]:
    """A private cluster, or None where Slurm is not installed."""
    from cluster import Cluster

    if why := Cluster.obstacle():
        console.print(why)
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Cluster(folder) as cluster:
        yield cluster


PAIR = """
SMOKE = replace(SMOKE, seeds=(0,), runs={"vit_b": SMOKE.runs["vit_b"]},
                resources=replace(SMOKE.resources, runs_per_job=1))
TABLE = replace(TABLE, scales=(SMOKE,))
"""


def preemption(folder: Path, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    site = "[runs]\ncheckpoint_steps = 100\n[slurm]\npartition = 'main'\n"
    reference = Project(folder / "reference", site, PAIR)
    console.print("preemption: the undisturbed pair")
    assert reference.matched("submit", "table1", "--wait")[0] == 0
    with slurm(folder / "slurm") as cluster:
        if cluster is None:
            return [_row("Slurm preemptions", "not measured: no Slurm", "", True)]
        done = alike = number = 0
        while done < PREEMPTIONS:
            number += 1
            project = Project(folder / f"preempted-{number}", site, PAIR, **cluster.environment)
            console.print(f"preemption: {done} of {PREEMPTIONS}, project {number}")
            hits = _preempted(project, cluster, chance)
            good = len(identical(project, reference)) == 2 and not wrong_files(project, 2)
            done += hits
            alike += hits * good
    return [_row("Slurm preemptions: runs that end bit-identical", f"{alike} of {done}",
                 f"{PREEMPTIONS} of {PREEMPTIONS}", alike == done >= PREEMPTIONS)]  # fmt: skip


def _preempted(project: Project, cluster: Any, chance: random.Random) -> int:
    """Submit the pair and preempt it as often as it is found training; how many runs were hit."""
    code, out = project.matched("submit", "table1", "--cluster", "slurm")
    assert code == 0, out
    hits = 0
    for _ in range(3):
        _wait(lambda: project.finished() == 2 or _training(project))
        time.sleep(chance.uniform(0, 2))
        hit = [p for p in project.runs().values() if not (p / "result.json").exists()]
        if not hit:
            break
        before = {path: _stops(path) for path in hit}
        job = cluster.submit("sleep 1", "--partition=urgent", "--nodes=4", "--exclusive")
        cluster.wait_until(lambda job=job: cluster.queue().get(job) == "COMPLETED", 120)
        hits += sum(_stops(path) > before[path] for path in hit)
    _wait(lambda: project.finished() == 2, 300)
    return hits


def _training(project: Project) -> bool:
    """Whether both runs are past their first steps, or done."""
    paths = list(project.runs().values())
    steps = [json.loads((p / "progress.json").read_text())["step"] for p in paths
             if (p / "progress.json").exists()]  # fmt: skip
    return len(steps) == 2 and all(step > 0 for step in steps)


def _stops(path: Path) -> int:
    """How often a run was told to stop and had saved."""
    log = path / "log.txt"
    return log.read_text().count("interrupted after step") if log.exists() else 0


MANY = f"""
SMOKE = replace(SMOKE, seeds=tuple(range({RUNS // 2})), runs={{"vit_b": SMOKE.runs["vit_b"]}})
TABLE = replace(TABLE, scales=(SMOKE,))
"""


def submission(folder: Path, seed: int) -> list[dict[str, Any]]:
    site = "[slurm]\npartition = 'main'\n[slurm.options]\nbegin = 'now+1hour'\n"
    with slurm(folder / "slurm") as cluster:
        if cluster is None:
            return [_row(f"submission of {RUNS} runs", "not measured: no Slurm", "", True)]
        alone = Project(folder / "alone", site, MANY, **cluster.environment)
        started = time.monotonic()
        code, out = alone.matched("submit", "table1", "--cluster", "slurm")
        seconds = time.monotonic() - started
        assert code == 0, out
        before = len(cluster.queue())
        both = Project(folder / "both", site, MANY, **cluster.environment)
        two = [both.start("submit", "table1", "--cluster", "slurm") for _ in range(2)]
        told = [process.communicate()[0] for process in two]
        jobs = len(cluster.queue()) - before
    started = sorted(int(out.split(" scale: ")[1].split(" of ")[0]) for out in told)
    return [
        _row(f"submission of {RUNS} runs in {before} jobs to Slurm", f"{seconds:.1f} s", "10 s",
             seconds < 10),
        _row("  two at the same time: runs started by each, jobs in all",
             f"{started[0]} and {started[1]}, {jobs}", f"0 and {RUNS}, {before}",
             started == [0, RUNS] and jobs == before),
    ]  # fmt: skip


def _row(what: str, measured: str, bound: str, good: bool) -> dict[str, Any]:
    return {"what": what, "measured": measured, "bound": bound, "good": good}


PARTS = {"kills": kills, "disk": disk, "preemption": preemption, "submission": submission}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
            started = time.monotonic()
            rows += PARTS[name](Path(folder), given.seed)
            console.print(f"{name}: {time.monotonic() - started:.0f} s")
    table = Table("what", "measured", "bound", "")
    for row in rows:
        table.add_row(row["what"], row["measured"], row["bound"], "ok" if row["good"] else "MISSED")
    Console(width=140).print(table)
    print(json.dumps({"benchmark": "chaos", "seed": given.seed, "rows": rows}))
    sys.exit(not all(row["good"] for row in rows))


if __name__ == "__main__":
    main()
