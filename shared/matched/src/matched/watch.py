"""Show runs while they are computed: live bars in a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import submitit
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from matched.planning import Plan, PlannedRun
from matched.status import State

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


def wait(replan: Callable[[], Plan], jobs: list[submitit.Job[Any]], console: Console) -> Plan:
    """Show a plan's runs until none is at work, and return the plan as it then stands.

    Args:
        again: makes the plan anew from the run directories.
        jobs: the child processes just started, if any: asking them whether they are done lets
            them be reaped.
        console: a terminal shows bars; anything else gets one line per change of state.
    """
    started = time.monotonic()
    if not console.is_terminal:
        return _wait_in_lines(replan, jobs, console)
    plan = replan()
    with Live(console=console, refresh_per_second=4) as screen:
        while True:
            over = all(job.done() for job in jobs)
            plan = replan()
            screen.update(_picture(plan, time.monotonic() - started))
            if over and not any(planned.status.state.live for planned in plan.runs):
                return plan
            time.sleep(POLL_SECONDS)


def _wait_in_lines(
    replan: Callable[[], Plan], jobs: list[submitit.Job[Any]], console: Console
) -> Plan:
    seen: dict[str, str] = {}
    while True:
        over = all(job.done() for job in jobs)
        plan = replan()
        for planned in plan.runs:
            event = _event(planned)
            if event and seen.get(planned.run.signature) != event:
                seen[planned.run.signature] = event
                left = sum(not other.status.state.finished for other in plan.runs)
                console.print(
                    f"{time.strftime('%H:%M:%S')} {planned.title}: {event} ({left} to go)",
                    highlight=False,
                    soft_wrap=True,
                )
        if over and not any(planned.status.state.live for planned in plan.runs):
            return plan
        time.sleep(POLL_SECONDS)


def _event(planned: PlannedRun) -> str:
    """The state in words, of a running run each quarter of its way; "" where nothing is new."""
    status = planned.status
    if status.state in (State.NEW, State.QUEUED):
        return ""
    if status.result is not None:
        metrics = status.result["metrics"]
        return f"{status.state} {_numbers(metrics)}"
    if status.state is State.RUNNING:
        return f"running, {int(4 * _share(planned)) * 25}%"
    return f"{status.state} {status.reason}".strip()


def _numbers(metrics: dict[str, float]) -> str:
    return " ".join(f"{key} {value:.4g}" for key, value in metrics.items() if value is not None)


def _picture(plan: Plan, seconds: float) -> Group:
    """A line for each run at work or failed, and one for the whole."""
    grid = Grid.grid(padding=(0, 2))
    for planned in plan.runs:
        if planned.status.state in (State.RUNNING, State.FAILED, State.DAMAGED):
            grid.add_row(planned.title, *_cells(planned))
    counts = Counter(planned.status.state for planned in plan.runs)
    words = [f"{counts[state]} {state}" for state in State if counts[state]]
    finished = sum(planned.status.state.finished for planned in plan.runs)
    share = sum(_share(planned) for planned in plan.runs) / len(plan.runs)
    left = f", about {(seconds / share - seconds) / 60:.0f} min left" if 0.1 < share < 1 else ""
    text = f"{finished} of {len(plan.runs)} runs finished ({', '.join(words)}){left}"
    total = Grid.grid(padding=(0, 2))
    total.add_row(ProgressBar(total=1, completed=share, width=40), text)
    return Group(grid, total)


def _cells(planned: PlannedRun) -> tuple[ProgressBar | Text, str]:
    status = planned.status
    if status.state is not State.RUNNING:
        return Text(str(status.state), style=STYLES[status.state]), status.reason
    progress = status.progress or {}
    bar = ProgressBar(total=1, completed=_share(planned), width=30)
    return bar, f"{progress.get('step', 0)} steps  {_numbers(progress.get('shown', {}))}"


def _share(planned: PlannedRun) -> float:
    status = planned.status
    if status.state.finished:
        return 1.0
    progress = status.progress or {}
    return progress["step"] / progress["steps"] if progress.get("steps") else 0.0
