"""Fault injection into real runs (kills, full disks, preemptions), and comparison of their results.

    python benchmarks/chaos.py [kills] [chains] [disk] [preemption] [submission] [--seed 0]

kills: worker processes of Table 1 at smoke scale (all rows, 6 epochs) get SIGKILL at random
instants, half of them while a checkpoint is written, and the table is submitted again.
chains: the same for one chain of HyenaDNA and one of Caduceus of Table 6 at smoke scale, in both
arms: preparation, pretraining, fine-tuning on one task, and scoring.
disk: a file system of a few megabytes (mounted by root) is full while a checkpoint or a result
is written.
preemption: jobs of a private Slurm are preempted by a partition of higher priority.
submission: a plan of 1,000 runs is submitted to that Slurm by two processes at the same time.

The runs are then compared bit by bit with undisturbed ones: weights, optimizer state, EMA, every
line of metrics.jsonl, result and fingerprint. The benchmark prints a table and a line of JSON; its
exit code is 1 if a bound is missed.
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
KILLS, CHAIN_KILLS, PREEMPTIONS, RUNS = 50, 10, 10, 1000
console = Console(stderr=True)


# --- kills


class Killer:
    """Kills worker processes of a project at random times.

    Args:
        writing: share of the processes that are killed when they next write a checkpoint, instead
            of after some time. A process that writes small ones may not be caught.

    Attributes:
        victims: signature of the run that was running, for each kill.
        while_writing: how many kills hit a process that was writing a checkpoint.
    """

    def __init__(self, project: Project, rng: random.Random, writing: float) -> None:
        self.project, self.rng, self.writing = project, rng, writing
        # Process id → time of its kill; a negative one waits for a checkpoint to be written.
        self.kill_times: dict[int, float] = {}
        self.victims: list[str] = []
        self.while_writing = 0

    def poll(self) -> None:
        """Kill the processes that are due; called in short intervals."""
        for signature, path in self.project.runs().items():
            if (path / "result.json").exists():
                continue
            pid = self._live_owner(path)
            if pid is None:
                continue
            if pid not in self.kill_times:
                wait = self.rng.uniform(0, 6)
                at = -wait if self.rng.random() < self.writing else time.monotonic() + wait
                self.kill_times[pid] = at
            kill_time = self.kill_times[pid]
            writing = bool(list(path.glob(f"checkpoints/.step_*.{pid}.tmp")))
            if kill_time > 0:
                due = time.monotonic() > kill_time
            else:
                due = writing and self.rng.random() < 0.3
            if due:
                os.kill(pid, signal.SIGKILL)
                self.victims.append(signature)
                self.while_writing += writing
                self.kill_times[pid] = float("inf")

    @staticmethod
    def _live_owner(path: Path) -> int | None:
        from matched import lease

        owner = lease.owner(path)
        return int(owner.job.job_id) if owner is not None and owner.job.is_running else None


ALL_ROWS = """
def short(run):
    return replace(run, config=replace(run.config, epochs=6))

SCALE = replace(SCALE, seeds=(0,), runs={row: short(run) for row, run in SCALE.runs.items()})
"""


ONE_TASK = """
TASK = "demo_human_or_worm"

def one_task(run):
    return replace(run, needs={TASK: run.needs[TASK]})

SCALE = replace(SCALE, seeds=(0,), runs={row: one_task(run) for row, run in SCALE.runs.items()})
"""


def kills(folder: Path, seed: int) -> list[dict[str, Any]]:
    return _kill_workers(folder, seed, "SIGKILL", KILLS, ALL_ROWS, writing=0.5)


def chains(folder: Path, seed: int) -> list[dict[str, Any]]:
    what = "SIGKILL in chains of Table 6"
    return _kill_workers(
        folder, seed, what, CHAIN_KILLS, ONE_TASK, writing=0.0, recipe="table06", name="table6"
    )


def _kill_workers(
    folder: Path, seed: int, what: str, number: int, changes: str, *, writing: float,
    recipe: str = "table01", name: str = "table1"
) -> list[dict[str, Any]]:  # fmt: skip
    """Kill workers of a table ``number`` times while it is computed, and compare its runs."""
    site = "[local]\nworkers = 2\n[runs]\ncheckpoint_steps = 10\n"
    reference = Project(folder / "reference", site, changes, table=recipe)
    console.print(f"{what}: the undisturbed table")
    code, out = reference.matched("submit", name, "--wait")
    assert code == 0, out
    project = Project(folder / "killed", site, changes, table=recipe)
    killer = Killer(project, random.Random(seed), writing)
    expected = reference.finished()
    while len(killer.victims) < number and project.finished() < expected:
        project.matched("submit", name)
        submitted = time.monotonic()
        while len(killer.victims) < number and time.monotonic() < submitted + 3:
            killer.poll()
            time.sleep(0.001)
        console.print(f"{what}: {len(killer.victims)}, {project.finished()} runs finished")
    while project.finished() < expected:
        project.matched("submit", name, "--wait")
    same_runs = set(identical(project, reference))
    num_same = sum(signature in same_runs for signature in killer.victims)
    return [
        _row(f"{what}: runs that end bit-identical", f"{num_same} of {len(killer.victims)}",
             f"{number} of {number}", num_same == len(killer.victims) >= number),
        _row("  while a checkpoint was being written", str(killer.while_writing), "", True),
        _row("  all runs of the table identical", f"{len(same_runs)} of {expected}",
             f"{expected} of {expected}", len(same_runs) == expected),
        _row("  result files lost, doubled or half-written", str(wrong_files(project, expected)),
             "0", wrong_files(project, expected) == 0),
    ]  # fmt: skip


# --- a full disk

ONE_RUN = """
RUN = SCALE.runs["vit_b"]
SHORT = replace(RUN, config=replace(RUN.config, epochs=5))
SCALE = replace(SCALE, seeds=(0,), runs={"vit_b": SHORT})
"""
LAST = ("step_00000200.pt", "step_00000220.pt")
CELL = ("run", "table1", "--row", "vit_b", "--arm", "LN")


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system of that size on ``folder``.

    Raises:
        PermissionError: if it cannot be mounted.
    """
    folder.mkdir()
    process = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
        capture_output=True,
    )
    if process.returncode:
        raise PermissionError(process.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk(folder: Path, seed: int) -> list[dict[str, Any]]:
    site = "[runs]\nfolder = '{}'\ncheckpoint_steps = 20\n"
    reference = Project(folder / "reference", site.format("runs"), ONE_RUN)
    console.print("disk: the undisturbed run")
    assert reference.matched(*CELL)[0] == 0
    (undisturbed,) = reference.runs().values()
    rows = []
    moments = {"a checkpoint": _fill_during_training, "the result": _fill_before_result}
    for what, fill in moments.items():
        rows.append(_row(f"disk full at {what}", "missed the right moment", "", False))
        for attempt in range(8):
            console.print(f"disk: full while {what} is written")
            try:
                with small_disk(folder / f"{what[-6:]}-{attempt}", 64 * 1024) as mount:
                    row = _run_on_full_disk(mount, what, fill, site, undisturbed)
            except PermissionError as error:
                row = _row(f"disk full at {what}", f"not measured: {error}", "", True)
            if row is not None:
                rows[-1] = row
                break
    return rows


def _run_on_full_disk(
    mount: Path, what: str, fill: Any, site: str, undisturbed: Path
) -> dict[str, Any] | None:
    """Fill the disk during a run, then make room and resume it; None if the run was faster."""
    project = Project(mount.parent / f"project-{mount.name}", site.format(mount / "runs"), ONE_RUN)
    process = project.start(*CELL)
    (run,) = _wait(lambda: list(mount.glob("runs/*/*/checkpoints")))
    ballast = mount / "ballast"
    in_time = fill(run, process.pid, ballast)
    out, _ = process.communicate()
    if not in_time:
        return None
    lines = [line for line in out.splitlines() if "matched: error:" in line]
    checkpoints_load = all(_loads(path) for path in run.glob("step_*.pt"))
    one_clear_line = process.returncode == 2 and len(lines) == 1 and "Traceback" not in out
    console.print(f"  its error: {lines[-1] if lines else out[-300:]}", highlight=False)
    ballast.unlink()
    code, _ = project.matched(*CELL)
    resumed_same = code == 0 and same(run.parent, undisturbed)
    good = one_clear_line and checkpoints_load and resumed_same
    bound = "one clear line, complete files stay intact, ends bit-identically"
    return _row(f"disk full at {what}", bound if good else f"exit {process.returncode}: {lines}",
                bound, good)  # fmt: skip


def _fill_during_training(run: Path, pid: int, ballast: Path) -> bool:
    _wait(lambda: (run / "step_00000020.pt").exists())
    _fill(ballast, 700)
    return True


def _fill_before_result(run: Path, pid: int, ballast: Path) -> bool:
    """Stop the process in the few milliseconds between its last checkpoint and its result."""
    before, last = (run / name for name in LAST)
    _wait(before.exists)
    while not last.exists():
        pass
    os.kill(pid, signal.SIGSTOP)
    in_time = not (run.parent / "result.json").exists()
    if in_time:
        # The process will delete older checkpoints; open files keep that from freeing space.
        open_files = [path.open("rb") for path in run.glob("step_*.pt")]
        _fill(ballast, 0)
    os.kill(pid, signal.SIGCONT)
    if in_time:
        _wait(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid))
        for file in open_files:
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


def _wait(condition: Any, seconds: float = 120) -> Any:
    """Poll until the condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited more than {seconds:g} s")
        time.sleep(0.01)
    return value


# --- Slurm


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
            return [_row("Slurm preemptions", "not measured: no Slurm", "", True)]
        total = num_same = number = 0
        while total < PREEMPTIONS:
            number += 1
            project = Project(folder / f"preempted-{number}", site, PAIR, **cluster.environment)
            console.print(f"preemption: {total} of {PREEMPTIONS}, project {number}")
            hits = _preempt_pair(project, cluster, rng)
            both_same = len(identical(project, reference)) == 2 and not wrong_files(project, 2)
            total += hits
            num_same += hits * both_same
    return [_row("Slurm preemptions: runs that end bit-identical", f"{num_same} of {total}",
                 f"{PREEMPTIONS} of {PREEMPTIONS}", num_same == total >= PREEMPTIONS)]  # fmt: skip


def _preempt_pair(project: Project, cluster: Any, rng: random.Random) -> int:
    """Submit the pair and preempt it up to three times; return how many runs were interrupted."""
    code, out = project.matched("submit", "table1", "--cluster", "slurm")
    assert code == 0, out
    hits = 0
    for _ in range(3):
        _wait(lambda: project.finished() == 2 or _training(project))
        time.sleep(rng.uniform(0, 2))
        unfinished = [p for p in project.runs().values() if not (p / "result.json").exists()]
        if not unfinished:
            break
        before = {path: _num_interruptions(path) for path in unfinished}
        job = cluster.submit("sleep 1", "--partition=urgent", "--nodes=4", "--exclusive")
        cluster.wait_until(lambda job=job: cluster.queue().get(job) == "COMPLETED", 120)
        hits += sum(_num_interruptions(path) > before[path] for path in unfinished)
    _wait(lambda: project.finished() == 2, 300)
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
            return [_row(f"submission of {RUNS} runs", "not measured: no Slurm", "", True)]
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
        _row(f"submission of {RUNS} runs in {before} jobs to Slurm", f"{seconds:.1f} s", "10 s",
             seconds < 10),
        _row("  two at the same time: runs started by each, total jobs",
             f"{started[0]} and {started[1]}, {jobs}", f"0 and {RUNS}, {before}",
             started == [0, RUNS] and jobs == before),
    ]  # fmt: skip


def _row(what: str, measured: str, bound: str, good: bool) -> dict[str, Any]:
    return {"what": what, "measured": measured, "bound": bound, "good": good}


PARTS = {
    "kills": kills,
    "chains": chains,
    "disk": disk,
    "preemption": preemption,
    "submission": submission,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
            started = time.monotonic()
            rows += PARTS[name](Path(folder), arguments.seed)
            console.print(f"{name}: {time.monotonic() - started:.0f} s")
    table = Table("what", "measured", "bound", "")
    for row in rows:
        table.add_row(row["what"], row["measured"], row["bound"], "ok" if row["good"] else "MISSED")
    Console(width=140).print(table)
    print(json.dumps({"benchmark": "chaos", "seed": arguments.seed, "rows": rows}))
    sys.exit(not all(row["good"] for row in rows))


if __name__ == "__main__":
    main()
