"""Environment variables of the surroundings that must not reach jobs or Slurm's commands.

A submission may happen inside of another job or launcher (salloc, torchrun), whose variables
describe that job. sbatch reads some of them as its own options, and hands all of them on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

LAUNCHER = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE"
    r"|ROLE_\w+|TORCHELASTIC_\w+|MASTER_ADDR|MASTER_PORT"
)
"""Variables with which torchrun numbers its processes."""
OUTER_JOB = re.compile(r"(SLURM|SBATCH|SRUN|SALLOC|SUBMITIT|PMI|PMIX|OMPI)_\w+")
"""Variables that a job of Slurm gets about itself, and options of sbatch, srun and salloc."""
CLIENT = re.compile(
    r"SLURM_(CONF|CONF_SERVER|CLUSTERS|JWT|SACK_\w+|TIME_FORMAT|DEBUG_FLAGS)"
    r"|SUBMITIT_PREEMPT_SIGNAL"
)
"""Variables without which Slurm's commands do not find or enter the cluster, or that both sides of
submitit have to agree on."""
DEFAULTS = re.compile(r"SBATCH_(ACCOUNT|PARTITION|QOS|CONSTRAINT|RESERVATION|CLUSTERS)")
"""A user's defaults for what site.toml leaves open. No job sets these variables."""
FILTERS = re.compile(r"(SQUEUE|SACCT|SCANCEL)_\w+")
"""Defaults of a user's own queries: a squeue that shows one partition hides the other jobs."""
GPUS = re.compile(r"(CUDA|ROCR|HIP)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL")
"""The GPUs of the outer job or, outside of a job, the user's choice; local jobs keep both."""


def drop_launcher_variables() -> None:
    """Remove the numbers of another launcher from this process, which is a job of its own."""
    for name in filter(LAUNCHER.fullmatch, list(os.environ)):
        del os.environ[name]


@contextmanager
def submission_environment(options: Collection[str], cluster: str) -> Iterator[None]:
    """Hide variables that describe the surroundings from the jobs that the block submits.

    Args:
        options: names of the sbatch options of the jobs, such as "partition". sbatch prefers its
            variables to the options in a script, so the variables for these are hidden too.
        cluster: as submitit names it; only jobs on "slurm" get GPUs of their own.
    """
    keep_gpus = cluster != "slurm" or "SLURM_JOB_ID" not in os.environ
    hidden = {
        name: os.environ[name] for name in os.environ if not _is_passed_on(name, options, keep_gpus)
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_passed_on(name: str, options: Collection[str], keep_gpus: bool) -> bool:
    if CLIENT.fullmatch(name):
        return True
    if default := DEFAULTS.fullmatch(name):
        return default[1].lower() not in options
    if GPUS.fullmatch(name):
        return keep_gpus
    return not (OUTER_JOB.fullmatch(name) or LAUNCHER.fullmatch(name))


def query_environment() -> dict[str, str]:
    """Return the environment for squeue, sacct and scancel, without a user's own filters."""
    return {name: value for name, value in os.environ.items() if not FILTERS.fullmatch(name)}
