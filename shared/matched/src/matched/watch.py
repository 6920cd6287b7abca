"""Show runs while they are computed: live bars in a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import submitit
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from matched.plans import Item, Plan
from matched.rundir import State

POLL_SECONDS = 0.5
STYLES = {
    State.NEW: "dim",
    State.QUEUED: "dim",
    State.RUNNING: "cyan",
    State.FAILED: "bold red",
    State.DAMAGED: "bold red",
    State.DIVERGED: "yellow",
    State.DONE: "green",
}


def wait(again: Callable[[], Plan], jobs: list[submitit.Job], console: Console) -> Plan:
    """Show a plan's runs until none is at work, and return the plan as it then stands.

    Args:
        again: makes the plan anew from the run directories.
        jobs: the child processes just started, if any: asking them whether they are done lets
            them be reaped.
        console: a terminal shows bars; anything else gets one line per change of state.
    """
    started = time.monotonic()
    if not console.is_terminal:
        return _wait_in_lines(again, jobs, console)
    plan = again()
    with Live(console=console, refresh_per_second=4) as screen:
        while True:
            over = all(job.done() for job in jobs)
            plan = again()
            screen.update(_picture(plan, time.monotonic() - started))
            if over and not any(item.standing.state.live for item in plan.items):
                return plan
            time.sleep(POLL_SECONDS)


def _wait_in_lines(again: Callable[[], Plan], jobs: list[submitit.Job], console: Console) -> Plan:
    seen: dict[str, str] = {}
    while True:
        over = all(job.done() for job in jobs)
        plan = again()
        for item in plan.items:
            event = _event(item)
            if event and seen.get(item.run.signature) != event:
                seen[item.run.signature] = event
                left = sum(not other.standing.state.finished for other in plan.items)
                console.print(
                    f"{time.strftime('%H:%M:%S')} {item.title}: {event} ({left} to go)",
                    highlight=False,
                    soft_wrap=True,
                )
        if over and not any(item.standing.state.live for item in plan.items):
            return plan
        time.sleep(POLL_SECONDS)


def _event(item: Item) -> str:
    """The state in words, of a running run each quarter of its way; "" where nothing is new."""
    standing = item.standing
    if standing.state in (State.NEW, State.QUEUED):
        return ""
    if standing.result is not None:
        metrics = standing.result["metrics"]
        return f"{standing.state} {_numbers(metrics)}"
    if standing.state is State.RUNNING:
        return f"running, {int(4 * _share(item)) * 25}%"
    return f"{standing.state} {standing.why}".strip()


def _numbers(metrics: dict[str, float]) -> str:
    return " ".join(f"{key} {value:.4g}" for key, value in metrics.items() if value is not None)


def _picture(plan: Plan, seconds: float) -> Group:
    """A line for each run at work or failed, and one for the whole."""
    grid = Grid.grid(padding=(0, 2))
    for item in plan.items:
        if item.standing.state in (State.RUNNING, State.FAILED, State.DAMAGED):
            grid.add_row(item.title, *_cells(item))
    counts = Counter(item.standing.state for item in plan.items)
    words = [f"{counts[state]} {state}" for state in State if counts[state]]
    finished = sum(item.standing.state.finished for item in plan.items)
    share = sum(_share(item) for item in plan.items) / len(plan.items)
    left = f", about {(seconds / share - seconds) / 60:.0f} min left" if 0.1 < share < 1 else ""
    text = f"{finished} of {len(plan.items)} runs finished ({', '.join(words)}){left}"
    total = Grid.grid(padding=(0, 2))
    total.add_row(ProgressBar(total=1, completed=share, width=40), text)
    return Group(grid, total)


def _cells(item: Item) -> tuple[ProgressBar | Text, str]:
    standing = item.standing
    if standing.state is not State.RUNNING:
        return Text(str(standing.state), style=STYLES[standing.state]), standing.why
    progress = standing.progress or {}
    bar = ProgressBar(total=1, completed=_share(item), width=30)
    return bar, f"{progress.get('step', 0)} steps  {_numbers(progress.get('shown', {}))}"


def _share(item: Item) -> float:
    standing = item.standing
    if standing.state.finished:
        return 1.0
    progress = standing.progress or {}
    return progress["step"] / progress["steps"] if progress.get("steps") else 0.0
