"""Output of the commands ``plan``, ``status``, ``audit`` and ``run``."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import fields

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid
from rich.text import Text

from matched import preflight, slurm_summary, submission
from matched.audit import audit_pairs, read_fingerprint
from matched.files import DamagedFileError, read_json
from matched.job_packing import PackedJob, hours_here, pack_jobs
from matched.memory import GIB, MemoryEstimate
from matched.planning import Plan, PlannedRun
from matched.slurm_summary import Request, Stage
from matched.status import ExecutionResult, RunStatus
from matched.summary_table import data_titles
from matched.table import Resources
from matched.watch import STYLES, format_numbers, own_metrics
from matched.wording import counted

LISTED = 200
"""``status`` and ``plan`` list finished runs only in plans of at most this many runs."""

SHOWN_TITLES = 8
"""Most runs that are named with each request to Slurm; the plan above lists all of them."""


def _grid(*columns: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        grid.add_column(column)
    return grid


def _listed(plan: Plan) -> list[PlannedRun]:
    many = len(plan.runs) > LISTED
    return [planned for planned in plan.runs if not (many and planned.status.state.finished)]


def _state(planned: PlannedRun) -> Text:
    return Text(str(planned.status.state), style=STYLES[planned.status.state])


def show_plan(plan: Plan, cluster: str, console: Console) -> None:
    """Print every run with its signature and state, and the requests of its jobs to Slurm."""
    grid = _grid("run", "signature", "state", "task")
    for planned in _listed(plan):
        grid.add_row(planned.title, planned.run.signature, _state(planned), planned.run.task)
    console.print(grid)
    _show_changes(plan, console)
    packed = pack_jobs(plan, cluster)
    console.print(
        f"{plan.recipe.name} at {plan.scale.name} scale, data {data_titles(plan)}: "
        f"{len(plan.missing)} of {counted(len(plan.runs), 'run')} to do, in "
        f"{counted(len(packed), 'job')} ({cluster})",
        highlight=False,
        soft_wrap=True,
    )
    _show_memory(plan, cluster, console)
    if cluster == "slurm" and packed:
        _show_slurm_requests(plan, packed, console)
    elif packed:
        console.print(
            f"Expected: {hours_here(packed):,.1f} h here, {counted(len(packed), 'run')} at a time",
            highlight=False,
            soft_wrap=True,
        )


def _show_memory(plan: Plan, cluster: str, console: Console) -> None:
    """Print the estimated memory of a process, and the runs that do not fit into the GPUs."""
    titles: dict[tuple[MemoryEstimate, Resources], list[str]] = {}
    for planned, estimate in preflight.memory_estimates(plan):
        titles.setdefault((estimate, planned.resources), []).append(planned.title)
    if not titles:
        return
    parts = [field.name for field in fields(MemoryEstimate)]
    grid = _grid("memory of a process, estimated", "processes", *parts, "total")
    for (estimate, resources), named in titles.items():
        sizes = (_size(getattr(estimate, part)) for part in (*parts, "total"))
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        grid.add_row(f"{named[0]}{more}", _processes(resources), *sizes)
    console.print(grid)
    for shortage in preflight.gpu_shortages(plan, cluster):
        console.print(
            f"Does not fit: {shortage}", style="bold red", highlight=False, soft_wrap=True
        )


def _size(number: int) -> str:
    return f"{number / GIB:,.1f} GB" if number >= 1e8 else f"{number / (1 << 20):,.1f} MB"


def _processes(resources: Resources) -> str:
    """Return the number of processes, and if they are sharded, of copies × parts."""
    size = resources.world_size
    if not resources.shard or size == 1:
        return str(size)
    degree = resources.shard_degree or size
    return f"{size} = {size // degree} × {degree}"


def _show_slurm_requests(plan: Plan, packed: list[PackedJob], console: Console) -> None:
    """Print each distinct request with its runs, hours by stage, and what site.toml limits."""
    for request in slurm_summary.distinct_requests(plan, packed):
        console.print(f"Slurm is asked for {_jobs(packed, request)}:", highlight=False)
        titles = [planned.title for i in request.jobs for planned in packed[i].runs]
        more = f"; and {len(titles) - SHOWN_TITLES} more" if len(titles) > SHOWN_TITLES else ""
        text = f"  for {'; '.join(titles[:SHOWN_TITLES])}{more}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        for option in request.lines:
            console.print(f"  {option}", highlight=False, markup=False, soft_wrap=True)
    console.print(_hours_by_stage(slurm_summary.stages(packed)))
    hours = slurm_summary.hours_to_last_job(packed, plan.site.slurm)
    console.print(
        f"Expected: {hours:,.1f} h from the first job's start to the last one's end, if none waits "
        "in the queue",
        highlight=False,
        soft_wrap=True,
    )
    for note in slurm_summary.limit_notes(plan, packed):
        console.print(f"Limit in {plan.site.file}: {note}", highlight=False, soft_wrap=True)


def _hours_by_stage(stages: list[Stage]) -> Grid:
    """Return a grid of all stages and the whole table; core-hours only if a stage has no GPUs."""
    columns = []
    if any(stage.gpu_hours for stage in stages):
        columns.append("GPU-hours")
    if not all(stage.gpu_hours for stage in stages):
        columns.append("core-hours")
    grid = _grid("stage", "runs", "jobs", *columns)
    for stage in [*stages, slurm_summary.total(stages)]:
        hours = {"GPU-hours": stage.gpu_hours, "core-hours": stage.core_hours}
        numbers = (f"{hours[column]:,.1f}" for column in columns)
        grid.add_row(stage.name, str(stage.runs), str(stage.jobs), *numbers)
    return grid


def _show_changes(plan: Plan, console: Console) -> None:
    if plan.recipe.changes:
        changes = ", ".join(plan.recipe.change_texts)
        console.print(f"Changed on the command line: {changes}", highlight=False, soft_wrap=True)


def _jobs(packed: list[PackedJob], request: Request) -> str:
    """Return "table3-score-paper: 4 jobs of 1 run, each after 1 other" for a request."""
    jobs = [packed[i] for i in request.jobs]
    runs = max(len(job.runs) for job in jobs)
    after = max(len(job.after) + len(job.after_ids) for job in jobs)
    text = f"{request.name}: {counted(len(jobs), 'job')}"
    text += f" of {counted(runs, 'run')}"
    if after:
        each = ", each" if len(jobs) > 1 else ","
        text += f"{each} after {counted(after, 'other')}"
    return text


def line(planned: PlannedRun) -> str:
    """Return a run's title, signature, state and metrics in one line."""
    metrics = own_metrics(planned.status.result or {})
    shown = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
    return f"{planned.title}  {planned.run.signature}  {planned.status.state}  {shown}".rstrip()


def show_status(plan: Plan, console: Console) -> None:
    """Print every run with its state, its progress and, if something is wrong, the reason."""
    grid = _grid("run", "signature", "state", "step", "numbers", "job")
    listed = _listed(plan)
    for planned in listed:
        status = planned.status
        progress = status.progress or {}
        result = status.result or {}
        step = f"{progress['step']}/{progress['steps']}" if progress.get("steps") else ""
        numbers = format_numbers(own_metrics(result) or progress.get("shown", {}))
        grid.add_row(
            planned.title,
            planned.run.signature,
            _state(planned),
            step or str(result.get("steps", "")),
            status.reason or numbers,
            _job(status),
        )
    console.print(grid)
    if more := len(plan.runs) - len(listed):
        console.print(f"and {counted(more, 'finished run')}", highlight=False)
    _show_changes(plan, console)
    console.print(f"Runs are in {plan.site.runs_folder}", highlight=False, soft_wrap=True)


def _job(status: RunStatus) -> str:
    """Return "slurm job 12_3 PENDING (Priority)", or "" for a run without a job."""
    if status.job is None:
        return ""
    return f"{status.job.describe()} {status.job_status.detail}".strip()


def show_audit(plan: Plan, console: Console) -> int:
    """Print each pair's config difference and fingerprints; return 1 if a pair is not matched."""
    table = plan.recipe.table
    grid = _grid("pair", "differs in", "first weights", "first batches", "verdict")
    pairs = audit_pairs(plan)
    for pair in pairs:
        changed = "\n".join(f"{path}: {a!r} → {b!r}" for path, (a, b) in pair.differences.items())
        hashes = [_short_hashes(pair.base), _short_hashes(pair.other)]
        style = {"matched": "green", "not matched": "bold red"}.get(pair.verdict, "dim")
        verdict = f"{pair.verdict}: {pair.reason}" if pair.reason else pair.verdict
        grid.add_row(
            f"{pair.row}, seed {pair.seed}\n{pair.base_column} / {pair.column}",
            Text(changed),
            "\n".join(one["weights"] for one in hashes),
            "\n".join(one["batches"] for one in hashes),
            Text(verdict, style=style),
        )
    console.print(grid)
    for note in table.allowed_difference_notes():
        console.print(note, highlight=False)
    return int(any(pair.verdict == "not matched" for pair in pairs))


def _short_hashes(planned: PlannedRun) -> dict[str, str]:
    try:
        found = read_fingerprint(planned)
    except DamagedFileError:
        return {"weights": "damaged", "batches": "damaged"}
    if found is None:
        return {"weights": "—", "batches": "—"}
    return {"weights": found["weights"][:8], "batches": " ".join(b[:4] for b in found["batches"])}


class _OneLine(logging.Formatter):
    """Formats time and message, without the traceback of a failure, which log.txt has."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{self.formatTime(record)} {record.getMessage()}"


def run_shown(plan: Plan, console: Console) -> dict[str, ExecutionResult]:
    """Call ``run_in_process`` with progress bars in a terminal or log lines elsewhere."""
    if not console.is_terminal:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine())
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        return submission.run_in_process(plan)
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
            return submission.run_in_process(plan)
        finally:
            over.set()
            watcher.join()


def _follow(planned_runs: list[PlannedRun], bar: Progress, over: threading.Event) -> None:
    """Copy progress.json to the bar of each run until ``over`` is set, and once after that."""
    tasks = [bar.add_task(planned.title, total=None, shown="") for planned in planned_runs]
    last = False
    while not last:
        last = over.is_set()
        for planned, task in zip(planned_runs, tasks, strict=True):
            progress = read_json(planned.directory / "progress.json") or {}
            shown = format_numbers(progress.get("shown", {}))
            if progress.get("steps"):
                bar.update(task, completed=progress["step"], total=progress["steps"], shown=shown)
        if not last:
            time.sleep(0.3)
