"""CPU time of ``matched plan``, ``status``, ``table``, ``report``; CPU share of ``status --watch``.

    python benchmarks/planning.py [--runs 10000]

Every command is a process. Its CPU time, which depends less on the machine's other programs than
wall time, is measured for Table 1 as it is in this checkout, and for a table of ``--runs`` finished
runs (8 cells) whose directories are generated in a temporary folder.
Watching is measured on the same table with 100 of its runs unfinished, half of them running and
writing their progress twice a second, and with all of its runs queued; once with the output in a
pipe and once in a terminal of 50 lines. The bounds (1 s and 1.5 s, of the report 3 s and 10 s, and
5 % of one core) are printed next to the measurements (medians of three processes for the times);
nothing fails.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from matched import job_status, lease, recipes, site
from matched.files import write_json
from matched.run_directory import RunDirectory
from matched.task import write_progress

ROOT = Path(__file__).resolve().parent.parent
WATCH_SECONDS = 30
JOB = job_status.job_record("local", str(os.getpid()), "t1", tempfile.gettempdir())
COMMANDS = ("plan", "status", "table")
REPORTS = {"report --summary --tables": 3.0, "report --tables": 10.0}
"""Commands of the report → their bounds in seconds, for the table of generated runs only."""
RECIPE = '''"""A table of many runs, generated."""

from dyt import Norm
from dyt_vision.config import Supervised
from matched import Arm, Resources, Run, Scale, Table

TASK = "dyt_vision.supervised:train"
MODELS = {"vit_b": "vit_base_patch16_224", "vit_l": "vit_large_patch16_224",
          "convnext_b": "convnext_base", "convnext_l": "convnext_large"}
COMMON = {"data": "digits", "epochs": 1, "batch": 8, "micro_batch": 8, "lr": 1e-3}
RUNS = {k: Run(task=TASK, config=Supervised(model=m, **COMMON)) for k, m in MODELS.items()}
TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt())),
    scales=(Scale(name="smoke", seeds=tuple(range(SEEDS)), runs=RUNS,
                  resources=Resources(minutes=1)),),
)
'''


def generate(root: Path, runs: int) -> list[RunDirectory]:
    """Write a project with one recipe, and a finished run directory for every run of it."""
    folder = root / "recipes" / "cvpr2025"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "paper.toml", root / "recipes")
    (folder / "table01.py").write_text(RECIPE.replace("SEEDS", str(runs // 8)))
    os.environ["MATCHED_ROOT"] = str(root)
    recipe = recipes.load("table1")
    runs_folder = site.read(root / "site.toml").runs_folder
    directories = []
    for cell in recipe.table.cells(recipe.scale("smoke")):
        directory = RunDirectory(runs_folder, cell.run)
        directory.prepare()
        directory.write_result({"outcome": "done", "metrics": {"top1": 90.0 + cell.seed % 7}})
        fingerprint = {"weights": cell.row + str(cell.seed), "batches": [str(cell.seed)]}
        write_json(directory / "fingerprint.json", fingerprint)
        directories.append(directory)
    return directories


def cpu_seconds(command: str, root: Path) -> float:
    """Return the median CPU time of three processes of the command, without its table."""
    environment = {**os.environ, "MATCHED_ROOT": str(root)}
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "matched", *command.split(), "table1"],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = os.times()
        times.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    return statistics.median(times)


def start_again(directory: RunDirectory) -> None:
    """Make a finished run one that was given to this process and has not begun."""
    (directory / "result.json").unlink(missing_ok=True)
    directory.write_job(JOB)


def watch(root: Path, running: Sequence[RunDirectory], *, terminal: bool) -> float:
    """Return the share of a core that ``status --watch`` takes after its first output."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "MATCHED_ROOT": str(root), "COLUMNS": "120", "LINES": "50"}
    process = subprocess.Popen(
        [sys.executable, "-m", "matched", "status", "table1", "--watch"],
        env={**environment, "TERM": "xterm"},
        stdout=theirs,
    )
    os.close(theirs)
    shown = threading.Event()
    threading.Thread(target=_drain, args=(ours, shown), daemon=True).start()
    before = started = None
    step = 0
    while started is None or time.monotonic() - started < WATCH_SECONDS:
        step += 1
        for directory in running:
            write_progress(directory.path, step, 1000, shown={"loss": 1 / step})
        time.sleep(0.5)
        if started is None and shown.is_set():
            before, started = _cpu_seconds(process.pid), time.monotonic()
    share = (_cpu_seconds(process.pid) - before) / (time.monotonic() - started)
    process.kill()
    process.wait()
    return share


def _drain(descriptor: int, shown: threading.Event) -> None:
    """Read what a process writes, and set ``shown`` after its first output."""
    with suppress(OSError):  # raised when the last program of a terminal has ended
        while os.read(descriptor, 65536):
            shown.set()
    os.close(descriptor)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watching(root: Path, directories: list[RunDirectory]) -> list[tuple[str, str, float, float]]:
    """Measure ``status --watch`` with 100 unfinished runs, then with all of them unfinished."""
    unfinished = directories[:: max(1, len(directories) // 100)]
    for directory in unfinished:
        start_again(directory)
    running = unfinished[::2]
    leases = [lease.acquire(directory.path, JOB) for directory in running]
    rows = []
    for terminal in (False, True):
        place = "terminal" if terminal else "pipe"
        share = watch(root, running, terminal=terminal)
        rows.append((f"{len(unfinished)} unfinished", place, 100 * share, 5.0))
    for directory in directories:
        start_again(directory)
    share = watch(root, running, terminal=False)
    rows.append((f"{len(directories):,} unfinished", "pipe", 100 * share, 5.0))
    for owned in leases:
        owned.release()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    rows = [("Table 1", command, cpu_seconds(command, ROOT), 1.0) for command in COMMANDS]
    with tempfile.TemporaryDirectory() as folder:
        directories = generate(Path(folder), runs)
        rows += [
            (f"{runs:,} finished runs", command, cpu_seconds(command, Path(folder)), 1.5)
            for command in COMMANDS
        ]
        rows += [
            (f"{runs:,} finished runs", command, cpu_seconds(command, Path(folder)), bound)
            for command, bound in REPORTS.items()
        ]
        watched = watching(Path(folder), directories)
    for case, command, median, bound in rows:
        print(f"{case:22} matched {command:25} {median:6.2f} s   (bound {bound:g} s)")
    for case, place, percent, bound in watched:
        print(f"{case:22} watch, {place:9}{percent:6.2f} %   (bound {bound:g} %)")
    print(json.dumps({"benchmark": "planning", "rows": rows, "watching": watched}))


if __name__ == "__main__":
    main()
