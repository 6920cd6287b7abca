"""From a plan to jobs: what is checked first, what the cluster is asked for, who got which."""

from __future__ import annotations

import getpass
import io
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm import slurm

from matched import data, job_status, lease, provenance
from matched.job_packing import PackedJob, job_arrays, pack_jobs
from matched.job_runner import JobRunner
from matched.planning import Plan, PlannedRun
from matched.recipes import match_name, root
from matched.signals import PREEMPTION_SIGNAL
from matched.site import Site
from matched.table import Resources

CLUSTERS = ("debug", "local", "slurm")
SHORTEST = 5
"""Minutes that a Slurm job asks for at least: its signal to save may come a minute early."""


def request(resources: Resources, site: Site, cluster: str, runs: int) -> dict[str, Any]:
    """What submitit is asked for, for a job of so many runs: its own parameter names.

    Raises:
        ValueError: if the GPUs asked for do not fill whole nodes.
    """
    if cluster != "slurm":
        # submitit's local executor kills a job at its time limit; runs here have none.
        return {"timeout_min": 60 * 24 * 365, "nodes": 1, "tasks_per_node": resources.world_size}
    here = site.slurm
    per_node = min(resources.world_size, here.gpus_per_node)
    if resources.world_size % per_node:
        raise ValueError(
            f"{resources.world_size} processes do not fill nodes of {per_node}; "
            f"set gpus_per_node under [slurm] in {site.file} to a divisor"
        )
    asked = {
        "name": "matched",
        "nodes": resources.world_size // per_node,
        "tasks_per_node": per_node,
        "cpus_per_task": resources.cpus,
        "mem_gb": resources.memory_gb * per_node,
        "timeout_min": min(max(resources.minutes * runs, SHORTEST), here.max_hours * 60),
        "slurm_array_parallelism": here.parallel,
        "slurm_signal_delay_s": here.grace_seconds,
    }
    if resources.gpus:
        asked["gpus_per_node"] = per_node
    if resources.world_size > 1:
        # Processes wait for each other: when one fails, Slurm has to end the others.
        asked["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
    for name in ("partition", "account", "qos", "constraint"):
        if value := getattr(here, name):
            asked[f"slurm_{name}"] = value
    if here.setup:
        asked["slurm_setup"] = list(here.setup)
    # A preempted job is queued again even where the cluster's default is otherwise.
    asked["slurm_additional_parameters"] = {"requeue": True, **here.options}
    return asked


def sbatch_lines(plan: Plan, packed: Sequence[PackedJob], wave: Sequence[int]) -> list[str]:
    """The #SBATCH lines of one of ``waves``, as submitit writes them; needs no Slurm.

    submitit has no public way to ask for them, and a plan that showed anything else might lie.
    """
    most = max(len(packed[i].runs) for i in wave)
    asked = request(packed[wave[0]].resources, plan.site, "slurm", most)
    names: Any = slurm.SlurmExecutor._equivalence_dict() or {}
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
            GPUs that do not fill whole nodes; every kind of missing run is looked at.
    """
    match_name(cluster, CLUSTERS, "cluster")
    _check_data(plan)
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise ValueError(
            "there is no Slurm here (no sbatch on PATH): run this on a login node, "
            "or use --cluster local"
        )
    asked = dict.fromkeys(planned.resources for planned in plan.missing)
    for resources in asked:
        request(resources, plan.site, cluster, 1)
    gpus, here = max((resources.gpus for resources in asked), default=0), plan.site.local.gpus
    if cluster != "slurm" and gpus > here:
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
    for planned in plan.runs:
        if planned.status.state.live:
            raise ValueError(
                f"{planned.title} is {planned.status.state} already; see `matched status`"
            )
    for planned in plan.damaged:
        raise ValueError(
            f"damaged: {planned.status.reason}; "
            f"`matched retry {plan.recipe.name} --scale {plan.scale.name}` sets it aside"
        )


def _check_data(plan: Plan) -> None:
    names = {name for planned in plan.missing for name in data.source_names(planned.run.config)}
    data.resolve_paths(tuple(sorted(names)), plan.site.data, plan.site.file)


def submit(
    replan: Callable[[], Plan], cluster: str, *, snapshot: bool = False
) -> tuple[Plan, list[submitit.Job[Any]]]:
    """Hand every missing run to submitit; job.json in each run's directory says to which job.

    Submissions from one runs folder go one after the other, each seeing what the one before has
    started.

    Args:
        again: makes the plan anew, with the states as they are when it is called.
        snapshot: jobs run from a copy of the code made now.

    Returns:
        The plan that was submitted, and its jobs.

    Raises:
        ValueError: as ``preflight``, or in Slurm's own words if it refuses the job.
    """
    plan = replan()
    preflight(plan, cluster)
    if not plan.missing:
        return plan, []
    folder = plan.site.runs_folder / ".jobs"
    me = job_status.identity("here", str(os.getpid()), secrets.token_hex(4))
    turn = lease.acquire(folder / "submitting", me, wait=True)
    try:
        plan = replan()
        return plan, _submit(plan, cluster, folder, snapshot)
    finally:
        turn.release()


def _submit(plan: Plan, cluster: str, folder: Path, snapshot: bool) -> list[submitit.Job[Any]]:
    packed = pack_jobs(plan, cluster)
    if not packed:
        return []
    if snapshot and cluster == "debug":
        raise ValueError("a snapshot is for jobs of their own, and `debug` runs in this process")
    code = provenance.submission(folder / "submissions", root(), snapshot=snapshot)
    python = _python(provenance.path_of(code, root()))
    token = secrets.token_hex(4)
    submitted: dict[int, submitit.Job[Any]] = {}
    for wave in job_arrays(packed, plan.site.slurm.max_array):
        executor = submitit.AutoExecutor(
            folder=folder / "%j", cluster=cluster, slurm_python=python, local_python=python
        )
        asked = _asked(plan, cluster, packed, wave, submitted)
        executor.update_parameters(**asked)
        more = {"token": token, "code": code, "minutes": asked["timeout_min"]}
        for i in wave:
            for planned in packed[i].runs:
                planned.directory.prepare()
                (planned.directory / "failure.json").unlink(missing_ok=True)
        now = time.time()
        try:
            # sbatch's complaints would be printed besides being raised.
            with redirect_stderr(io.StringIO()), executor.batch():
                handed = [
                    executor.submit(_callable(plan, packed[i], cluster, i, **more)) for i in wave
                ]
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            raise ValueError(f"Slurm refused the job: {_last_line(error)}") from None
        for i, job in zip(wave, handed, strict=True):
            submitted[i] = job
            job_id = str(os.getpid()) if cluster == "debug" else job.job_id
            identity = job_status.identity(cluster, job_id, token)
            for planned in packed[i].runs:
                job_status.write_job_file(
                    planned.directory,
                    identity,
                    folder=str(job.paths.folder),
                    at=now,
                    submission=code["submission"],
                )
    return [submitted[i] for i in sorted(submitted)]


def _python(path: str | None) -> str:
    """The shell words that start a job's Python, which finds its modules on ``path`` first.

    The signal that asks a job to stop would kill a Python that is just starting, before it has a
    handler. So a smaller one blocks it first; ``interruption.watching`` takes it up.
    """
    first = [] if path is None else ["env", f"PYTHONPATH={path}"]
    block = f"signal.pthread_sigmask(signal.SIG_BLOCK, [{PREEMPTION_SIGNAL:d}])"
    start = f"import os, signal, sys; {block}; os.execv(sys.argv[1], sys.argv[1:])"
    return shlex.join([*first, sys.executable, "-I", "-S", "-c", start, sys.executable])


def _asked(
    plan: Plan,
    cluster: str,
    packed: Sequence[PackedJob],
    wave: Sequence[int],
    submitted: Mapping[int, submitit.Job[Any]],
) -> dict[str, Any]:
    """What submitit is asked for, for the jobs of a wave, dependencies among it."""
    most = max(len(packed[i].runs) for i in wave)
    first = packed[wave[0]]
    asked = request(first.resources, plan.site, cluster, most)
    ids = [*(submitted[i].job_id for i in first.after), *first.behind]
    if not ids:
        return asked
    # A pack ends well even if one of its runs failed, so "afterany": the run that needs the
    # failed one says that it is blocked, and the others of the pack go on.
    more = {"dependency": f"afterany:{':'.join(ids)}", "kill-on-invalid-dep": "yes"}
    asked["slurm_additional_parameters"] |= more
    return asked


def cancel(plan: Plan, meant: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """Stop the jobs of these runs: key of each job → its runs that are not finished.

    Raises:
        ValueError: if a job has other runs besides, or cannot be cancelled from here.
    """
    held: dict[str, tuple[dict[str, Any], list[PlannedRun]]] = {}
    for planned in plan.runs:
        if planned.status.state.live:
            job = planned.directory.owner() or planned.directory.job()
            assert job is not None, "who is at work has said so"
            held.setdefault(job["key"], (job, []))[1].append(planned)
    chosen = {key: pair for key, pair in held.items() if any(i in meant for i in pair[1])}
    for key, (_, planned_runs) in chosen.items():
        if others := [planned.title for planned in planned_runs if planned not in meant]:
            raise ValueError(
                f"{key} computes other runs too ({'; '.join(others)}); a job can only be "
                "cancelled as a whole: name no row, arm or seed"
            )
    by = f"{getpass.getuser()}, {time.strftime('%Y-%m-%d %H:%M')}"
    directories = [
        planned.directory for _, planned_runs in chosen.values() for planned in planned_runs
    ]
    given = [(where, own) for where in directories if (own := where.job()) is not None]
    for directory, own in given:
        job_status.write_job_file(directory, own, cancelled=by)
    try:
        job_status.cancel(job for job, _ in chosen.values())
    except ValueError:
        for directory, own in given:
            job_status.write_job_file(directory, own)
        raise
    return {key: planned_runs for key, (_, planned_runs) in chosen.items()}


def _callable(plan: Plan, job: PackedJob, cluster: str, position: int, **more: Any) -> JobRunner:
    resources = job.resources
    on_slurm = cluster == "slurm"
    first = position * resources.gpus
    return JobRunner(
        runs=[planned.run for planned in job.runs],
        resources=[resources] * len(job.runs),
        site=plan.site,
        threads=resources.cpus if on_slurm else plan.site.local.threads,
        gpus=None if on_slurm else tuple(range(first, first + resources.gpus)),
        **more,
    )


def _last_line(error: Exception) -> str:
    text = getattr(error, "output", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def run_here(plan: Plan) -> dict[str, str]:
    """Compute the plan's unfinished runs in this process: signature → outcome, as ``Pack`` says it.

    Under torchrun every process does so, and rank 0 writes. All of them go through all runs: the
    other ranks cannot know which are finished, for rank 0 is about to change that.
    """
    token, now = secrets.token_hex(4), time.time()
    if os.environ.get("RANK", "0") == "0":
        identity = job_status.identity("here", str(os.getpid()), token)
        for planned in plan.missing:
            planned.directory.prepare()
            job_status.write_job_file(
                planned.directory, identity, folder=str(planned.directory.path), at=now
            )
    pack_of_all = JobRunner(
        runs=[planned.run for planned in plan.runs],
        resources=[planned.resources for planned in plan.runs],
        site=plan.site,
        threads=plan.site.local.threads,
        token=token,
    )
    return pack_of_all.compute("here", str(os.getpid()))
