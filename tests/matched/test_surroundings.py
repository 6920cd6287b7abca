"""Environment variables that jobs and Slurm's commands see."""

import os

import pytest

from matched.surroundings import (
    drop_launcher_variables,
    query_environment,
    submission_environment,
)

KEPT = ("PATH", "HOME", "SLURM_CONF", "SLURM_JWT", "SUBMITIT_PREEMPT_SIGNAL", "SQUEUE_FORMAT")
OF_A_JOB = ("SLURM_NTASKS", "SBATCH_TIMELIMIT", "SRUN_CPUS_PER_TASK", "OMPI_RANK", "PMI_SIZE")
OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID")
DEFAULTS = ("SBATCH_PARTITION", "SBATCH_ACCOUNT", "SBATCH_QOS")
GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


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
        (("account", "qos"), "slurm", False, (*KEPT, DEFAULTS[0], *GPUS)),
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
    surroundings(*OF_A_LAUNCHER, "GROUP_RANK", "ROLE_NAME", "MASTER_PORT", "PATH", "MY_RANK")
    drop_launcher_variables()
    assert set(os.environ) == {"PATH", "MY_RANK"}


def test_queries_ignore_a_users_filters(surroundings):
    surroundings("SQUEUE_PARTITION", "SACCT_FORMAT", "SCANCEL_USER", "SLURM_CONF", "PATH")
    assert query_environment() == {"SLURM_CONF": "1", "PATH": "1"}
