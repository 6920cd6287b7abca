"""Slurm requests: resources as submitit's parameters, and the #SBATCH lines that result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matched import submitit_internals
from matched.job_packing import PackedJob
from matched.planning import Plan
from matched.site import Site
from matched.submitit_internals import sbatch_script
from matched.table import Resources

MIN_MINUTES = 5
"""Shortest time limit of a Slurm job: the signal to save may come a minute early."""
EXCLUSIVE = (
    {"mem", "mem_per_cpu", "mem_per_gpu"},
    {"cpus_per_task", "cpus_per_gpu"},
    {"gpus_per_node", "gpus_per_task", "gpus", "gres"},
)
"""Groups of options of which a job has at most one."""
SRUN_CPUS = '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
"""Line of the job's script: from Slurm 22.05 on, srun does not read the cores of its job."""


def job_minutes(resources: Resources, num_runs: int) -> int:
    """Return the time limit that a job needs for all its runs, which the site may cut."""
    return max(resources.minutes * num_runs, MIN_MINUTES)


def executor_parameters(
    resources: Resources, site: Site, cluster: str, num_runs: int
) -> dict[str, Any]:
    """Return submitit's parameters, under its own names, for a job of ``num_runs`` runs.

    Raises:
        ValueError: if the processes do not fill whole nodes.
    """
    if cluster != "slurm":
        # submitit's local executor kills a job at its time limit; local runs have no limit.
        return {"timeout_min": 60 * 24 * 365, "nodes": 1, "tasks_per_node": resources.world_size}
    config = site.slurm
    per_node = min(resources.world_size, config.gpus_per_node)
    if resources.world_size % per_node:
        raise ValueError(
            f"{resources.world_size} processes do not fill nodes of {per_node}; "
            f"set gpus_per_node under [slurm] in {site.file} to a divisor"
        )
    parameters: dict[str, Any] = {
        "nodes": resources.world_size // per_node,
        "tasks_per_node": per_node,
        "cpus_per_task": resources.cpus,
        **_memory(resources, config.memory, per_node),
        "timeout_min": min(job_minutes(resources, num_runs), config.max_hours * 60),
        "slurm_array_parallelism": config.parallel,
        "slurm_signal_delay_s": config.grace_seconds,
    }
    if resources.gpus:
        parameters["gpus_per_node"] = per_node
    if resources.world_size > 1:
        # Processes wait for each other: when one fails, Slurm has to end the others.
        parameters["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
    for name in ("partition", "account", "qos", "constraint"):
        if value := getattr(config, name):
            parameters[f"slurm_{name}"] = value
    parameters["slurm_setup"] = [SRUN_CPUS, *config.setup]
    return _with_site_options(parameters, config.options)


def _memory(resources: Resources, unit: str, per_node: int) -> dict[str, Any]:
    """Return the memory option of the unit that the cluster accepts, or none."""
    if unit == "none":
        return {}
    if unit == "per-node":
        return {"mem_gb": resources.memory_gb * per_node}
    if unit == "per-gpu" and resources.gpus:
        return {"slurm_mem_per_gpu": f"{resources.memory_gb}GB"}
    # Runs without GPUs have only cores by which to ask for memory.
    return {"slurm_mem_per_cpu": f"{math.ceil(resources.memory_gb * 1024 / resources.cpus)}MB"}


def _with_site_options(parameters: dict[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """Add the options of site.toml, which replace those that mean the same or exclude them."""
    options = {name.replace("-", "_"): value for name, value in options.items()}
    replaced = {name for name, value in options.items() if value == ""}
    for group in EXCLUSIVE:
        if not group.isdisjoint(options):
            replaced |= group
    kept = {
        name: value
        for name, value in parameters.items()
        if submitit_internals.sbatch_parameters({name: value}).keys().isdisjoint(replaced)
    }
    # Requeue preempted jobs even where the cluster does not by default.
    written = {"requeue": True, **options}
    kept["slurm_additional_parameters"] = {k: v for k, v in written.items() if v != ""}
    return kept


def slurm_options(parameters: Mapping[str, Any]) -> set[str]:
    """Return the names of the sbatch options in ``parameters``, such as "partition"."""
    named = submitit_internals.sbatch_parameters(parameters)
    return {*named, *named.get("additional_parameters", ())}


def stage_name(jobs: Sequence[PackedJob]) -> str:
    """Return the functions of the jobs' tasks: "train", or "train+probe" if there are two."""
    tasks = (planned.run.task for job in jobs for planned in job.runs)
    return "+".join(dict.fromkeys(task.rpartition(":")[2] for task in tasks))


def job_name(plan: Plan, jobs: Sequence[PackedJob]) -> str:
    """Return the name that squeue shows: table, stage and scale, as "table3-train-paper"."""
    return f"{plan.recipe.name}-{stage_name(jobs)}-{plan.scale.name}"


def array_parameters(
    plan: Plan,
    packed: Sequence[PackedJob],
    array: Sequence[int],
    cluster: str,
    dependencies: Sequence[str] = (),
) -> dict[str, Any]:
    """Return submitit's parameters for one array of ``job_packing.job_arrays``.

    Args:
        array: positions in ``packed``; the array's time limit is that of its longest job.
        dependencies: Slurm ids of the jobs that have to end before these jobs start.
    """
    num_runs = max(len(packed[i].runs) for i in array)
    parameters = executor_parameters(packed[array[0]].resources, plan.site, cluster, num_runs)
    if cluster == "slurm":
        parameters["name"] = job_name(plan, [packed[i] for i in array])
    if dependencies:
        # "afterany", because a job ends normally even if one of its runs failed: the run that needs
        # the failed one is reported as blocked, and the other runs of its job are computed.
        parameters["slurm_additional_parameters"] |= {
            "dependency": f"afterany:{':'.join(dependencies)}",
            "kill-on-invalid-dep": "yes",
        }
    return parameters


def sbatch_lines(plan: Plan, packed: Sequence[PackedJob], array: Sequence[int]) -> list[str]:
    """Return the #SBATCH lines of one array exactly as submitit writes them; needs no Slurm.

    Dependencies are left out: their job ids are unknown before the submission.
    """
    parameters = array_parameters(plan, packed, array, "slurm")
    folder = plan.site.runs_folder / ".jobs" / "%j"
    script = sbatch_script(parameters, folder, len(array) if len(array) > 1 else None)
    return [line for line in script.splitlines() if line.startswith("#SBATCH")]
