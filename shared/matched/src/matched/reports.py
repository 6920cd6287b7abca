"""What ``plan``, ``status``, ``audit`` and ``run`` print."""

from __future__ import annotations

import logging
import threading
import time

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid
from rich.text import Text

from matched import launch
from matched.files import Damaged, read_json
from matched.packing import Job, pack, waves
from matched.plans import Item, Plan
from matched.results import fingerprint, pairs
from matched.summary import data_titles
from matched.watch import STYLES

LISTED = 200
"""Of more runs than this, ``status`` and ``plan`` list only those that are not finished."""


def _grid(*columns: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        grid.add_column(column)
    return grid


def _listed(plan: Plan) -> list[Item]:
    many = len(plan.items) > LISTED
    return [item for item in plan.items if not (many and item.standing.state.finished)]


def _state(item: Item) -> Text:
    return Text(str(item.standing.state), style=STYLES[item.standing.state])


def show_plan(plan: Plan, cluster: str, console: Console) -> None:
    """Every run with its signature and state, and what each job would be asked for."""
    grid = _grid("run", "signature", "state", "task")
    for item in _listed(plan):
        grid.add_row(item.title, item.run.signature, _state(item), item.run.task)
    console.print(grid)
    packed = pack(plan, cluster)
    console.print(
        f"{plan.recipe.name} at {plan.scale.name} scale, data {data_titles(plan)}: "
        f"{len(plan.missing)} of {len(plan.items)} runs to do, in {len(packed)} jobs ({cluster})",
        highlight=False,
        soft_wrap=True,
    )
    if not packed:
        return
    if cluster != "slurm":
        return
    for wave in waves(packed, plan.site.slurm.max_array):
        console.print(f"Slurm is asked for {_array(packed, wave)}:", highlight=False)
        for option in launch.sbatch_lines(plan, packed, wave):
            console.print(f"  {option}", highlight=False, markup=False, soft_wrap=True)


def _array(packed: list[Job], wave: list[int]) -> str:
    """ "4 jobs of 8 runs, after 2 others", for the jobs of one Slurm array."""
    runs = max(len(packed[i].items) for i in wave)
    first = packed[wave[0]]
    after = (*first.after, *first.behind)
    jobs = f"{len(wave)} job{'s' if len(wave) > 1 else ''}"
    return (
        f"{jobs} of {runs} run{'s' if runs > 1 else ''}"
        f"{f', after {len(after)} others' if after else ''}"
    )


def line(item: Item) -> str:
    """A run's title, signature, state and numbers in one line."""
    numbers = (item.standing.result or {}).get("metrics", {})
    shown = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
    return f"{item.title}  {item.run.signature}  {item.standing.state}  {shown}".rstrip()


def show_status(plan: Plan, console: Console) -> None:
    """Every run with its state, its progress and, where something is wrong, the reason."""
    grid = _grid("run", "signature", "state", "step", "numbers", "job")
    listed = _listed(plan)
    for item in listed:
        standing = item.standing
        progress = standing.progress or {}
        done = standing.result or {}
        step = f"{progress['step']}/{progress['steps']}" if progress.get("steps") else ""
        shown = done.get("metrics") or progress.get("shown", {})
        numbers = " ".join(f"{k} {v:.4g}" for k, v in shown.items() if v is not None)
        grid.add_row(
            item.title,
            item.run.signature,
            _state(item),
            step or str(done.get("steps", "")),
            standing.why or numbers,
            item.standing.job,
        )
    console.print(grid)
    if more := len(plan.items) - len(listed):
        console.print(f"and {more} finished runs", highlight=False)
    console.print(f"Runs lie in {plan.site.runs_folder}", highlight=False, soft_wrap=True)


def show_audit(plan: Plan, console: Console) -> int:
    """Each pair's config difference and fingerprints; returns 1 if a pair is not matched."""
    table = plan.recipe.table
    grid = _grid("pair", "differs in", "first weights", "first batches", "verdict")
    found = pairs(plan)
    for pair in found:
        changed = "\n".join(f"{path}: {a!r} → {b!r}" for path, (a, b) in pair.changed.items())
        prints = [_prints(pair.one), _prints(pair.other)]
        style = {"matched": "green", "not matched": "bold red"}.get(pair.verdict, "dim")
        verdict = f"{pair.verdict}: {pair.why}" if pair.why else pair.verdict
        grid.add_row(
            f"{pair.row}, seed {pair.seed}\n{table.baseline.name} / {pair.arm}",
            Text(changed),
            "\n".join(p["weights"] for p in prints),
            "\n".join(p["batches"] for p in prints),
            Text(verdict, style=style),
        )
    console.print(grid)
    for what, why in table.reasons():
        console.print(f"Allowed to differ: {what}, because {why}", highlight=False)
    return int(any(pair.verdict == "not matched" for pair in found))


def _prints(item: Item) -> dict[str, str]:
    try:
        found = fingerprint(item)
    except Damaged:
        return {"weights": "damaged", "batches": "damaged"}
    if found is None:
        return {"weights": "—", "batches": "—"}
    return {"weights": found["weights"][:8], "batches": " ".join(b[:4] for b in found["batches"])}


class _OneLine(logging.Formatter):
    """Time and message; the traceback of a failure is for log.txt."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{self.formatTime(record)} {record.getMessage()}"


def run_shown(plan: Plan, console: Console) -> dict[str, str]:
    """``launch.run_here`` with a progress bar in a terminal, or log lines elsewhere."""
    if not console.is_terminal:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine())
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        return launch.run_here(plan)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
        console=console,
    )
    over = threading.Event()
    with bar:
        watcher = threading.Thread(target=_follow, args=(plan.missing, bar, over), daemon=True)
        watcher.start()
        try:
            return launch.run_here(plan)
        finally:
            over.set()
            watcher.join()


def _follow(items: list[Item], bar: Progress, over: threading.Event) -> None:
    """Copy progress.json into the bar until ``over`` is set, and once more after it."""
    tasks = {item: bar.add_task(item.title, total=None, shown="") for item in items}
    last = False
    while not last:
        last = over.is_set()
        for item, task in tasks.items():
            progress = read_json(item.directory / "progress.json") or {}
            shown = " ".join(
                f"{k} {v:.4g}" for k, v in progress.get("shown", {}).items() if v is not None
            )
            if progress.get("steps"):
                bar.update(task, completed=progress["step"], total=progress["steps"], shown=shown)
        if not last:
            time.sleep(0.3)
