"""Fault injection into real runs (kills, full disks, preemptions), and comparison of their results.

    python benchmarks/chaos.py [kills] [chains] [llama] [processes] [disk] [preemption] [submission]
                               [--seed 0]

kills: worker processes of Table 1 at smoke scale (all rows, 6 epochs) get SIGKILL at random
instants, half of them while a checkpoint is written, and the table is submitted again.
chains: the same for one chain of HyenaDNA and one of Caduceus of Table 6 at smoke scale, in both
arms: preparation, pretraining, fine-tuning on one task, and scoring.
llama: the same for two rows of Table 4: tokenization of twelve text files, and pretraining.
processes: runs of Table 4 in two processes get SIGKILL after a checkpoint and continue in one; they
are compared to rounding.
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
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from chaos_disk import disk
from chaos_llama import TEXT_CHAINS, processes, write_text
from chaos_project import Project, console, identical, row, wrong_files
from chaos_slurm import preemption, submission
from rich.console import Console
from rich.table import Table

KILLS, CHAIN_KILLS = 50, 10


class Killer:
    """Kills worker processes of a project at random times.

    Args:
        writing: share of the processes that are killed when they next write a checkpoint, instead
            of after some time. A process that writes small ones may not be caught.
        seconds: longest time after which a process is killed; importing takes some of it.

    Attributes:
        victims: signature of the run that was running, for each kill.
        while_writing: how many kills hit a process that was writing a checkpoint.
    """

    def __init__(
        self, project: Project, rng: random.Random, writing: float, seconds: float = 6.0
    ) -> None:
        self.project, self.rng, self.writing, self.seconds = project, rng, writing, seconds
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
                wait = self.rng.uniform(0, self.seconds)
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
        """Return the process that computes a run: a child of the job's controller."""
        from matched import lease

        owner = lease.owner(path)
        if owner is None or not owner.job.is_running:
            return None
        with suppress(psutil.NoSuchProcess):
            workers = psutil.Process(int(owner.job.job_id)).children()
            return workers[0].pid if workers else None
        return None


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


def llama(folder: Path, seed: int) -> list[dict[str, Any]]:
    data = write_text(folder / "data")
    what = "SIGKILL in chains of Table 4"
    return _kill_workers(
        folder, seed, what, CHAIN_KILLS, TEXT_CHAINS, writing=0.0,
        recipe="table04", name="table4", data=data, seconds=6.0,
    )  # fmt: skip


def _kill_workers(
    folder: Path, seed: int, what: str, number: int, changes: str, *, writing: float,
    recipe: str = "table01", name: str = "table1", data: str = "", seconds: float = 6.0
) -> list[dict[str, Any]]:  # fmt: skip
    """Kill workers of a table ``number`` times while it is computed, and compare its runs."""
    site = f"{data}[local]\nworkers = 2\n[runs]\ncheckpoint_steps = 10\n"
    reference = Project(folder / "reference", site, changes, table=recipe)
    console.print(f"{what}: the undisturbed table")
    code, out = reference.matched("submit", name, "--wait")
    assert code == 0, out
    project = Project(folder / "killed", site, changes, table=recipe)
    killer = Killer(project, random.Random(seed), writing, seconds)
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
        row(f"{what}: runs that end bit-identical", f"{num_same} of {len(killer.victims)}",
             f"{number} of {number}", num_same == len(killer.victims) >= number),
        row("  while a checkpoint was being written", str(killer.while_writing), "", True),
        row("  all runs of the table identical", f"{len(same_runs)} of {expected}",
             f"{expected} of {expected}", len(same_runs) == expected),
        row("  result files lost, doubled or half-written", str(wrong_files(project, expected)),
             "0", wrong_files(project, expected) == 0),
    ]  # fmt: skip


PARTS = {
    "kills": kills,
    "chains": chains,
    "llama": llama,
    "processes": processes,
    "disk": disk,
    "preemption": preemption,
    "submission": submission,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
            started = time.monotonic()
            rows += PARTS[name](Path(folder), arguments.seed)
            console.print(f"{name}: {time.monotonic() - started:.0f} s")
    table = Table("what", "measured", "bound", "")
    for found in rows:
        verdict = "ok" if found["good"] else "MISSED"
        table.add_row(found["what"], found["measured"], found["bound"], verdict)
    Console(width=140).print(table)
    print(json.dumps({"benchmark": "chaos", "seed": arguments.seed, "rows": rows}))
    sys.exit(not all(found["good"] for found in rows))


if __name__ == "__main__":
    main()
