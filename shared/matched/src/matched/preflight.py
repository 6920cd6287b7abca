"""Preflight checks before submission: data sources, cluster, GPUs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from matched import data
from matched.memory import GIB, MemoryEstimate, estimate_memory
from matched.planning import Plan, PlannedRun
from matched.slurm_request import executor_parameters
from matched.wording import counted, match_name

CLUSTERS = ("debug", "local", "slurm")


def check_submission(plan: Plan, cluster: str) -> None:
    """Check all missing runs of a plan before any of them is submitted.

    Raises:
        ValueError: if data or the cluster is missing, the machine has too few GPUs, processes do
            not fill whole nodes, or a run needs more memory than a GPU has.
    """
    match_name(cluster, CLUSTERS, "cluster")
    _check_data(plan)
    if cluster == "slurm":
        for command in ("sbatch", "srun"):
            if shutil.which(command) is None:
                raise ValueError(
                    f"there is no Slurm here (no {command} on PATH): run this on a login node, "
                    "or use --cluster local"
                )
    distinct = dict.fromkeys(planned.resources for planned in plan.missing)
    for resources in distinct:
        executor_parameters(resources, plan.site, cluster, num_runs=1)
    if missing_gpus := gpus_missing_here(plan, cluster):
        raise ValueError(
            f"{plan.recipe.name} at {plan.scale.name} scale {missing_gpus}; use --cluster slurm"
        )
    if shortages := gpu_shortages(plan, cluster):
        more = f" (and {len(shortages) - 1} more)" if len(shortages) > 1 else ""
        raise ValueError(
            f"{shortages[0]}{more}; shard the run over more processes if it is a training, reduce "
            "its micro_batch or batch, use GPUs with more memory, or correct that entry"
        )


def gpus_missing_here(plan: Plan, cluster: str) -> str:
    """Return how many GPUs a run asks for and this machine has, if these are fewer, else ""."""
    needed = max((planned.resources.gpus for planned in plan.missing), default=0)
    local = plan.site.local
    available = len(local.usable_gpus())
    if cluster == "slurm" or needed <= available:
        return ""
    limit = "CUDA_VISIBLE_DEVICES allows" if available < local.gpus else "this machine has"
    return (
        f"asks for {counted(needed, 'GPU')} per run and {limit} {available} (`gpus` under [local] "
        f"in {plan.site.file} is {local.gpus})"
    )


def memory_estimates(plan: Plan) -> Iterator[tuple[PlannedRun, MemoryEstimate]]:
    """Yield the missing runs whose configs estimate their memory, with the estimates.

    Raises:
        ValueError: if the batch of one does not divide over its processes.
    """
    for planned in plan.missing:
        estimate = estimate_memory(planned.run, planned.resources)
        if estimate is not None:
            yield planned, estimate


def gpu_shortages(plan: Plan, cluster: str) -> list[str]:
    """Return a sentence for each missing run that needs more memory than a GPU of site.toml has.

    Empty if site.toml does not give the memory of a GPU.
    """
    section = "slurm" if cluster == "slurm" else "local"
    capacity: int = getattr(plan.site, section).gpu_memory_gb
    return [
        f"{planned.title} needs about {estimate.total / GIB:,.1f} GB per GPU, and `gpu_memory_gb` "
        f"under [{section}] in {plan.site.file} is {capacity}"
        for planned, estimate in (memory_estimates(plan) if capacity else ())
        if planned.resources.gpus and estimate.total > capacity * GIB
    ]


def check_foreground(plan: Plan) -> None:
    """Check a plan before its runs are computed in this process or under torchrun.

    Raises:
        ValueError: if data is missing, a run is queued or running elsewhere, or one of its files
            is damaged.
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
            f"`matched retry {plan.recipe.arguments(plan.scale)}` sets it aside"
        )


def _check_data(plan: Plan) -> None:
    names = {name for planned in plan.missing for name in data.source_names(planned.run.config)}
    data.resolve_paths(tuple(sorted(names)), plan.site.data, plan.site.file, survey=True)
