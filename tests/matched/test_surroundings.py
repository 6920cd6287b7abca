"""Environment variables that jobs and Slurm's commands see."""

import os

import pytest

from matched.surroundings import (
    drop_launcher_variables,
    query_environment,
    submission_environment,
)

KEPT = (
    *("PATH", "HOME", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"),
    *("SLURM_SACK_KEY", "SLURM_TIME_FORMAT", "SLURM_DEBUG_FLAGS", "SUBMITIT_PREEMPT_SIGNAL"),
    *("SQUEUE_FORMAT", "MY_RANK", "RANKS", "NO_SLURM_X"),
)
OF_A_JOB = (
    *("SLURM_NTASKS", "SLURM_CONF_X", "SBATCH_TIMELIMIT", "SBATCH_QOS_X", "SRUN_CPUS_PER_TASK"),
    *("SALLOC_QOS", "SUBMITIT_EXECUTOR", "OMPI_RANK", "PMI_SIZE", "PMIX_RANK"),
)
OF_A_LAUNCHER = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_NAME", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"),
)
DEFAULTS = (
    *("SBATCH_PARTITION", "SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_CONSTRAINT"),
    *("SBATCH_RESERVATION", "SBATCH_CLUSTERS"),
)
GPUS = (
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    "GPU_DEVICE_ORDINAL",
)


@pytest.fixture
def surroundings(monkeypatch):
    """Make an environment of some variables alone; return a function that lists them."""

    def start(*names):
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name in names:
            monkeypatch.setenv(name, "1")

    return start


@pytest.mark.parametrize(
    ("options", "cluster", "in_job", "kept"),
    [
        ((), "slurm", False, (*KEPT, *DEFAULTS, *GPUS)),
        (("partition",), "slurm", False, (*KEPT, *DEFAULTS[1:], *GPUS)),
        (("account", "qos"), "slurm", False, (*KEPT, DEFAULTS[0], *DEFAULTS[3:], *GPUS)),
        ((), "slurm", True, (*KEPT, *DEFAULTS)),
        ((), "local", True, (*KEPT, *DEFAULTS, *GPUS)),
    ],
)
def test_submission_hides_what_describes_an_outer_job(surroundings, options, cluster, in_job, kept):
    every = (*KEPT, *OF_A_JOB, *OF_A_LAUNCHER, *DEFAULTS, *GPUS)
    surroundings(*every, *(["SLURM_JOB_ID"] if in_job else []))
    before = dict(os.environ)
    with submission_environment(options, cluster):
        assert sorted(os.environ) == sorted(kept)
    assert dict(os.environ) == before


def test_submission_environment_is_restored_after_an_error(surroundings):
    surroundings("RANK", "PATH")
    with pytest.raises(KeyError), submission_environment((), "slurm"):
        raise KeyError
    assert set(os.environ) == {"RANK", "PATH"}


def test_job_of_one_process_drops_the_numbers_of_a_launcher(surroundings):
    surroundings(*OF_A_LAUNCHER, "PATH", "MY_RANK")
    drop_launcher_variables()
    assert set(os.environ) == {"PATH", "MY_RANK"}


def test_queries_ignore_a_users_filters(surroundings):
    surroundings("SQUEUE_PARTITION", "SACCT_FORMAT", "SCANCEL_USER", "SLURM_CONF", "PATH")
    assert query_environment() == {"SLURM_CONF": "1", "PATH": "1"}
