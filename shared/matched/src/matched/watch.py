"""Live progress of a plan: bars in a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import submitit
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from matched.job_status import SLURM_PATIENCE, SlurmQueue
from matched.planning import Plan, PlannedRun
from matched.status import State
from matched.wording import counted

POLL_SECONDS = 0.5
REST = 25
"""Seconds of sleep per CPU second of a refresh: watching takes at most 4 % of a core."""
STYLES = {
    State.NEW: "dim",
    State.QUEUED: "dim",
    State.RUNNING: "cyan",
    State.FAILED: "bold red",
    State.DAMAGED: "bold red",
    State.DIVERGED: "yellow",
    State.DONE: "green",
}


def wait(plan: Plan, jobs: Sequence[submitit.Job[Any]], console: Console) -> Plan:
    """Show a plan's runs until none is queued or running, and return the plan in its last state.

    Only states are read again. The recipe and site.toml are not, so that editing them does not
    change what is being watched.

    Args:
        jobs: child processes that were just started, if any; asking whether they are done reaps
            them.
        console: a terminal shows bars; anything else gets one line per change of state.
    """
    queue = SlurmQueue()
    with _Bars(console) if console.is_terminal else _Lines(console, plan) as display:
        # Skip the first refresh when estimating the cost: it parses every file of unfinished runs.
        plan = _refreshed(plan, queue)
        while True:
            started = time.process_time()
            over = all(job.done() for job in jobs)
            plan = _refreshed(plan, queue)
            display.show(plan)
            if over and not any(planned.status.state.live for planned in plan.unfinished):
                return plan
            time.sleep(max(POLL_SECONDS, REST * (time.process_time() - started)))


def _refreshed(plan: Plan, queue: SlurmQueue) -> Plan:
    """Refresh the states; a Slurm controller that is too busy to answer is asked again."""
    deadline = time.monotonic() + SLURM_PATIENCE
    while True:
        try:
            return plan.refreshed(queue)
        except ValueError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(10 * POLL_SECONDS)


class _Lines:
    """Prints a line for each event; runs that had finished before are not reported."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console = console
        self.before = plan.runs
        self.events: dict[str, str] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, plan: Plan) -> None:
        changed = [
            now for now, before in zip(plan.runs, self.before, strict=True) if now is not before
        ]
        self.before = plan.runs
        for planned in changed:
            event = _event(planned)
            if event and self.events.get(planned.run.signature) != event:
                self.events[planned.run.signature] = event
                self.console.print(
                    f"{time.strftime('%H:%M:%S')} {planned.title}: {event} "
                    f"({len(plan.unfinished)} to go)",
                    highlight=False,
                    soft_wrap=True,
                )


def _event(planned: PlannedRun) -> str:
    """Return the state, with progress in quarters, or "" if there is nothing to report."""
    status = planned.status
    if status.state in (State.NEW, State.QUEUED):
        return ""
    if status.result is not None:
        return f"{status.state} {format_numbers(own_metrics(status.result))}".strip()
    if status.state is State.RUNNING:
        return f"running, {int(4 * _fraction_done(planned)) * 25}%"
    return f"{status.state} {status.reason}".strip()


def own_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a result, without those of several arms, which are too many to list."""
    metrics: Mapping[str, float] = result.get("metrics", {})
    return {key: value for key, value in metrics.items() if "/" not in key}


def format_numbers(numbers: Mapping[str, float | None]) -> str:
    """Return "top1 81.25 loss 0.7"; numbers that are None are left out."""
    return " ".join(f"{key} {value:.4g}" for key, value in numbers.items() if value is not None)


class _Bars:
    """Draws a bar for each running run and one for the whole plan."""

    def __init__(self, console: Console) -> None:
        # Redraw only after the states are read again: rendering is the slower part.
        self.live = Live(console=console, auto_refresh=False)
        self.started = time.monotonic()

    def __enter__(self) -> _Bars:
        self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.__exit__(*error)

    def show(self, plan: Plan) -> None:
        rows = self.live.console.height - 3
        seconds = time.monotonic() - self.started
        self.live.update(_picture(plan, rows, seconds), refresh=True)


def _picture(plan: Plan, rows: int, seconds: float) -> Group:
    """Return at most ``rows`` lines for running and failed runs, and one line for all runs."""
    grid = Grid.grid(padding=(0, 2))
    shown = [
        planned
        for planned in plan.unfinished
        if planned.status.state in (State.RUNNING, State.FAILED, State.DAMAGED)
    ]
    for planned in shown[:rows]:
        grid.add_row(planned.title, *_cells(planned))
    if len(shown) > rows:
        grid.add_row(f"and {len(shown) - rows} more")
    counts = Counter(planned.status.state for planned in plan.unfinished)
    finished = len(plan.runs) - len(plan.unfinished)
    counts[State.DIVERGED] = sum(p.status.state is State.DIVERGED for p in plan.runs)
    counts[State.DONE] = finished - counts[State.DIVERGED]
    summary = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    fraction = (finished + sum(map(_fraction_done, plan.unfinished))) / len(plan.runs)
    left = ""
    if 0.1 < fraction < 1:
        left = f", about {(seconds / fraction - seconds) / 60:.0f} min left"
    text = f"{finished} of {counted(len(plan.runs), 'run')} finished ({summary}){left}"
    total = Grid.grid(padding=(0, 2))
    total.add_row(ProgressBar(total=1, completed=fraction, width=40), text)
    return Group(grid, total)


def _cells(planned: PlannedRun) -> tuple[ProgressBar | Text, str]:
    status = planned.status
    if status.state is not State.RUNNING:
        return Text(str(status.state), style=STYLES[status.state]), status.reason
    progress = status.progress or {}
    bar = ProgressBar(total=1, completed=_fraction_done(planned), width=30)
    return (
        bar,
        f"{counted(progress.get('step', 0), 'step')}  {format_numbers(progress.get('shown', {}))}",
    )


def _fraction_done(planned: PlannedRun) -> float:
    """Return the part of its steps that an unfinished run has done."""
    progress = planned.status.progress or {}
    return progress["step"] / progress["steps"] if progress.get("steps") else 0.0
