"""From a table to jobs: what is missing, how it is packed, what the cluster is asked for."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import submitit
from submitit.slurm import slurm

from matched import data, jobs
from matched.recipes import Recipe, pick
from matched.run import Run
from matched.rundir import RunDirectory, Standing, State
from matched.site import Site
from matched.table import Cell, Resources, Scale
from matched.worker import Pack

CLUSTERS = ("debug", "local", "slurm")
MAX_TIMEOUTS = 1000
"""A job may be cut at its time limit and queued again this often: long runs need many limits."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One run of a plan: the cells that show it, and where it stands.

    A run that others need may stand in no cell.
    """

    run: Run
    cells: tuple[Cell, ...]
    directory: RunDirectory
    standing: Standing

    @property
    def title(self) -> str:
        return str(self.cells[0]) if self.cells else self.run.task


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a table at one scale, prerequisites before the runs that need them."""

    recipe: Recipe
    scale: Scale
    site: Site
    items: tuple[Item, ...]

    @property
    def missing(self) -> list[Item]:
        """What a submission starts: neither finished, nor at work, nor damaged."""
        return [i for i in self.items if i.standing.state in (State.NEW, State.FAILED)]

    @property
    def damaged(self) -> list[Item]:
        return [item for item in self.items if item.standing.state is State.DAMAGED]


def make(recipe: Recipe, scale: Scale, site: Site, only: Sequence[Cell] | None = None) -> Plan:
    """The runs of a table (or of ``only`` these cells) and where each of them stands."""
    cells: dict[Run, list[Cell]] = {}
    for cell in recipe.table.cells(scale) if only is None else only:
        for run in _with_needs(cell.run):
            cells.setdefault(run, [])
        cells[cell.run].append(cell)
    directories = {run: RunDirectory(site.runs_folder, run) for run in cells}
    live = jobs.live(directories.values())
    items = tuple(
        Item(
            run=run,
            cells=tuple(cells[run]),
            directory=directory,
            standing=directory.standing(live),
        )
        for run, directory in directories.items()
    )
    return Plan(recipe=recipe, scale=scale, site=site, items=items)


def _with_needs(run: Run) -> list[Run]:
    """The run and all it needs, what is needed first."""
    return [*(below for need in run.needs.values() for below in _with_needs(need)), run]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Runs that share one job, and the positions of the jobs it has to wait for."""

    items: tuple[Item, ...]
    after: tuple[int, ...]


def pack(plan: Plan, cluster: str) -> list[Job]:
    """Spread the missing runs over jobs, a run never before what it needs.

    On this machine there are as many jobs as workers, and runs that need each other stay in one
    job; on Slurm there are ``runs_per_job`` runs in each, and jobs wait for jobs.
    """
    missing = plan.missing
    if cluster != "slurm":
        bins: list[list[Item]] = [[] for _ in range(min(_workers(plan, cluster), len(missing)))]
        for i, chain in enumerate(_chains(missing)):
            bins[i % len(bins)].extend(chain)
        return [Job(items=tuple(items), after=()) for items in bins if items]
    size = plan.scale.resources.runs_per_job
    packed: list[Job] = []
    home: dict[Run, int] = {}
    for level in _levels(missing):
        for start in range(0, len(level), size):
            items = tuple(level[start : start + size])
            needed = {home[n] for i in items for n in i.run.needs.values() if n in home}
            home.update({item.run: len(packed) for item in items})
            packed.append(Job(items=items, after=tuple(sorted(needed))))
    return packed


def _workers(plan: Plan, cluster: str) -> int:
    """How many jobs this machine works on at a time."""
    if cluster == "debug":
        return 1
    if gpus := plan.scale.resources.gpus:
        return max(1, plan.site.local.gpus // gpus)
    return max(1, plan.site.local.workers_or_cores() // plan.scale.resources.processes)


def _levels(items: Sequence[Item]) -> list[list[Item]]:
    """Items by the length of the longest chain of missing runs below them."""
    depth: dict[Run, int] = {}
    levels: list[list[Item]] = []
    for item in items:  # prerequisites come first in a plan
        below = [depth[need] for need in item.run.needs.values() if need in depth]
        depth[item.run] = max(below, default=-1) + 1
        while len(levels) <= depth[item.run]:
            levels.append([])
        levels[depth[item.run]].append(item)
    return levels


def _chains(items: Sequence[Item]) -> list[list[Item]]:
    """Items grouped so that no run needs one of another group; order kept."""
    group: dict[Run, list[Item]] = {}
    for item in items:
        needed = {id(group[n]): group[n] for n in item.run.needs.values() if n in group}
        merged = [*(member for members in needed.values() for member in members), item]
        group.update({member.run: merged for member in merged})
    return list({id(members): members for members in group.values()}.values())


def request(resources: Resources, site: Site, cluster: str, runs: int) -> dict[str, Any]:
    """What submitit is asked for, for a job of so many runs: its own parameter names.

    Raises:
        ValueError: if the GPUs asked for do not fill whole nodes.
    """
    if cluster != "slurm":
        # submitit's local executor kills a job at its time limit; runs here have none.
        return {"timeout_min": 60 * 24 * 365, "nodes": 1, "tasks_per_node": resources.tasks}
    here = site.slurm
    per_node = min(resources.tasks, here.gpus_per_node)
    if resources.tasks % per_node:
        raise ValueError(
            f"{resources.tasks} processes do not fill nodes of {per_node}; "
            f"set gpus_per_node under [slurm] in {site.file} to a divisor"
        )
    asked = {
        "name": "matched",
        "nodes": resources.tasks // per_node,
        "tasks_per_node": per_node,
        "cpus_per_task": resources.cpus,
        "mem_gb": resources.memory_gb * per_node,
        "timeout_min": min(resources.minutes * runs, here.max_hours * 60),
        "slurm_array_parallelism": here.parallel,
    }
    if resources.gpus:
        asked["gpus_per_node"] = per_node
    if resources.tasks > 1:
        # Processes wait for each other: when one fails, Slurm has to end the others.
        asked["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
    for name in ("partition", "account", "qos", "constraint"):
        if value := getattr(here, name):
            asked[f"slurm_{name}"] = value
    if here.setup:
        asked["slurm_setup"] = list(here.setup)
    if here.options:
        asked["slurm_additional_parameters"] = dict(here.options)
    return asked


def sbatch_lines(plan: Plan, packed: Sequence[Job], wave: Sequence[int]) -> list[str]:
    """The #SBATCH lines of one of ``waves``, as submitit writes them; needs no Slurm.

    submitit has no public way to ask for them, and a plan that showed anything else might lie.
    """
    most = max(len(packed[i].items) for i in wave)
    asked = request(plan.scale.resources, plan.site, "slurm", most)
    names = slurm.SlurmExecutor._equivalence_dict() or {}
    options = {names.get(key, key.removeprefix("slurm_")): value for key, value in asked.items()}
    options["mem"] = f"{options['mem']}GB"
    text = slurm._make_sbatch_string(
        command="",
        folder=plan.site.runs_folder / ".jobs" / "%j",
        map_count=len(wave) if len(wave) > 1 else None,
        **options,
    )
    return [line for line in text.splitlines() if line.startswith("#SBATCH")]


def preflight(plan: Plan, cluster: str) -> None:
    """Everything that can be known to be wrong before anything is submitted.

    Raises:
        ValueError: for data that is not there, a cluster that is not there, a machine too small,
            GPUs that do not fill whole nodes.
    """
    pick(cluster, CLUSTERS, "cluster")
    _check_data(plan)
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise ValueError(
            "there is no Slurm here (no sbatch on PATH): run this on a login node, "
            "or use --cluster local"
        )
    request(plan.scale.resources, plan.site, cluster, 1)
    gpus, here = plan.scale.resources.gpus, plan.site.local.gpus
    if cluster != "slurm" and gpus > here and plan.missing:
        raise ValueError(
            f"{plan.recipe.name} at {plan.scale.name} scale asks for {gpus} GPUs per run and this "
            f"machine has {here} (`gpus` under [local] in {plan.site.file}); use --cluster slurm"
        )


def preflight_here(plan: Plan) -> None:
    """As ``preflight``, for runs in this process or under torchrun.

    Raises:
        ValueError: for data that is not there, runs that are at work elsewhere, or damaged files
            that stand in the way.
    """
    _check_data(plan)
    for item in plan.items:
        if item.standing.state.live:
            raise ValueError(f"{item.title} is {item.standing.state} already; see `matched status`")
    for item in plan.damaged:
        raise ValueError(
            f"damaged: {item.standing.why}; "
            f"`matched retry {plan.recipe.name} --scale {plan.scale.name}` sets it aside"
        )


def _check_data(plan: Plan) -> None:
    names = {name for item in plan.missing for name in data.names_read(item.run.config)}
    data.resolve(tuple(sorted(names)), plan.site.data, plan.site.file)


def submit(plan: Plan, cluster: str) -> list[submitit.Job]:
    """Hand every missing run to submitit; job.json in each run's directory says to which job.

    Raises:
        ValueError: as ``preflight``, or in Slurm's own words if it refuses the job.
    """
    preflight(plan, cluster)
    packed = pack(plan, cluster)
    if not packed:
        return []
    folder = plan.site.runs_folder / ".jobs"
    folder.mkdir(parents=True, exist_ok=True)
    submitted: dict[int, submitit.Job] = {}
    for wave in waves(packed):
        executor = submitit.AutoExecutor(
            folder=folder / "%j", cluster=cluster, slurm_max_num_timeout=MAX_TIMEOUTS
        )
        most = max(len(packed[i].items) for i in wave)
        asked = request(plan.scale.resources, plan.site, cluster, most)
        executor.update_parameters(**_with_dependency(asked, wave, packed, submitted))
        for i in wave:
            for item in packed[i].items:
                item.directory.prepare()
        now = time.time()
        try:
            # sbatch's complaints would be printed besides being raised.
            with redirect_stderr(io.StringIO()), executor.batch():
                handed = [executor.submit(_callable(plan, packed[i], cluster, i)) for i in wave]
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            raise ValueError(f"Slurm refused the job: {_last_line(error)}") from None
        for i, job in zip(wave, handed, strict=True):
            submitted[i] = job
            job_id = str(os.getpid()) if cluster == "debug" else job.job_id
            for item in packed[i].items:
                jobs.record(item.directory, cluster, job_id, job.paths.folder, now)
    return [submitted[i] for i in sorted(submitted)]


def waves(packed: Sequence[Job]) -> list[list[int]]:
    """Positions of jobs that wait for the same jobs: each wave is one Slurm array."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, job in enumerate(packed):
        found.setdefault(job.after, []).append(i)
    return list(found.values())


def _with_dependency(
    asked: dict[str, Any],
    wave: Sequence[int],
    packed: Sequence[Job],
    submitted: Mapping[int, submitit.Job],
) -> dict[str, Any]:
    after = packed[wave[0]].after
    if not after:
        return asked
    # A pack ends well even if one of its runs failed, so "afterany": the run that needs the
    # failed one says that it is blocked, and the others of the pack go on.
    ids = ":".join(submitted[i].job_id for i in after)
    more = {**asked.get("slurm_additional_parameters", {}), "dependency": f"afterany:{ids}"}
    return {**asked, "slurm_additional_parameters": more}


def _callable(plan: Plan, job: Job, cluster: str, position: int) -> Pack:
    resources = plan.scale.resources
    on_slurm = cluster == "slurm"
    first = position * resources.gpus
    return Pack(
        runs=[item.run for item in job.items],
        site=plan.site,
        threads=resources.cpus if on_slurm else plan.site.local.threads,
        loaders=_loaders(resources),
        gpus=None if on_slurm else tuple(range(first, first + resources.gpus)),
    )


def _loaders(resources: Resources) -> int:
    """Data-loading workers of a process: its cores but one; on the CPU it loads by itself."""
    return resources.cpus - 1 if resources.gpus else 0


def _last_line(error: Exception) -> str:
    text = getattr(error, "output", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def run_here(plan: Plan) -> dict[str, str]:
    """Compute the plan's unfinished runs in this process: signature → outcome, as ``Pack`` says it.

    Under torchrun every process does so, and rank 0 writes. The other ranks do not look at the
    runs' states, which rank 0 is about to change.
    """
    items = plan.items
    if os.environ.get("RANK", "0") == "0":
        items, now = tuple(plan.missing), time.time()
        for item in items:
            item.directory.prepare()
            jobs.record(item.directory, "here", str(os.getpid()), item.directory.path, now)
    pack_of_all = Pack(
        runs=[item.run for item in items],
        site=plan.site,
        threads=plan.site.local.threads,
        loaders=_loaders(plan.scale.resources),
    )
    return pack_of_all.compute()
