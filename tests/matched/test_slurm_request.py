"""executor_parameters: what a job requests from Slurm or from this machine."""

from pathlib import Path

import pytest

from matched import Resources, slurm_request
from matched.site import MEMORY_UNITS, Local, Site, Slurm
from matched.submitit_internals import sbatch_script

PAPER = Resources(gpus=64, cpus=10, memory_gb=48, minutes=48 * 60)


def parameters(resources=PAPER, runs=1, cluster="slurm", **slurm):
    site = Site(file="site.toml", slurm=Slurm(**slurm), local=Local())
    return slurm_request.executor_parameters(resources, site, cluster, runs)


def test_paper_scale_on_nodes_of_eight_gpus():
    assert parameters() == {
        "nodes": 8,
        "tasks_per_node": 8,
        "gpus_per_node": 8,
        "cpus_per_task": 10,
        "mem_gb": 8 * 48,
        "timeout_min": 24 * 60,
        "slurm_array_parallelism": 64,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_signal_delay_s": 120,
        "slurm_setup": [slurm_request.SRUN_CPUS],
        "slurm_additional_parameters": {"requeue": True},
    }


def test_paper_scale_on_nodes_of_four_gpus():
    request = parameters(gpus_per_node=4)
    assert (request["nodes"], request["tasks_per_node"], request["gpus_per_node"]) == (16, 4, 4)
    assert request["mem_gb"] == 4 * 48


@pytest.mark.parametrize("gpus", [1, 2, 8, 16])
def test_runs_of_several_processes_end_together(gpus):
    request = parameters(Resources(gpus=gpus, minutes=60))
    expected = None if gpus == 1 else ["--kill-on-bad-exit=1"]
    assert request.get("slurm_srun_args") == expected


@pytest.mark.parametrize(("gpus", "nodes"), [(1, 1), (4, 1), (8, 1), (16, 2)])
def test_small_runs_request_part_of_a_node(gpus, nodes):
    request = parameters(Resources(gpus=gpus, minutes=60))
    assert (request["nodes"], request["nodes"] * request["gpus_per_node"]) == (nodes, gpus)


@pytest.mark.parametrize(("gpus", "per_node"), [(64, 7), (12, 8), (3, 2)])
def test_executor_parameters_refuse_partly_filled_nodes(gpus, per_node):
    with pytest.raises(ValueError) as error:
        parameters(Resources(gpus=gpus, minutes=60), gpus_per_node=per_node)
    assert str(error.value) == (
        f"{gpus} processes do not fill nodes of {per_node}; set gpus_per_node under [slurm] in "
        "site.toml to a divisor"
    )


def test_time_limit_covers_all_runs_up_to_max_hours():
    resources = Resources(minutes=10)
    assert parameters(resources, runs=3)["timeout_min"] == 30
    assert parameters(resources, runs=3000)["timeout_min"] == 24 * 60
    assert parameters(max_hours=72)["timeout_min"] == 48 * 60
    assert parameters(max_hours=2)["timeout_min"] == 120


def test_cpu_runs_request_no_gpus():
    assert parameters(Resources(minutes=3, cpus=2, memory_gb=5)) == {
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": 2,
        "mem_gb": 5,
        "timeout_min": 5,
        "slurm_array_parallelism": 64,
        "slurm_signal_delay_s": 120,
        "slurm_setup": [slurm_request.SRUN_CPUS],
        "slurm_additional_parameters": {"requeue": True},
    }


def test_site_settings_are_passed_to_slurm():
    request = parameters(
        partition="gpu",
        account="a1",
        qos="q",
        constraint="c",
        parallel=3,
        grace_seconds=30,
        setup=("module load cuda",),
        options={"exclude": "node7"},
    )
    assert request["slurm_partition"] == "gpu"
    assert request["slurm_account"] == "a1"
    assert request["slurm_qos"] == "q"
    assert request["slurm_constraint"] == "c"
    assert request["slurm_array_parallelism"] == 3
    assert request["slurm_signal_delay_s"] == 30
    assert request["slurm_setup"] == [slurm_request.SRUN_CPUS, "module load cuda"]
    assert request["slurm_additional_parameters"] == {"requeue": True, "exclude": "node7"}


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_local_clusters_request_only_processes_for_a_year(cluster):
    request = parameters(Resources(gpus=2, minutes=1), cluster=cluster, partition="gpu")
    assert request == {"timeout_min": 525_600, "nodes": 1, "tasks_per_node": 2}


# --- clusters that refuse some options

MEMORY = {
    "per-node": {"mem=192GB"},
    "per-cpu": {"mem-per-cpu=4916MB"},
    "per-gpu": {"mem-per-gpu=48GB"},
    "none": set(),
}


FOUR_GPUS = Resources(gpus=4, cpus=10, memory_gb=48, minutes=60)


def options(resources=FOUR_GPUS, **slurm):
    """Return the #SBATCH options of a job."""
    script = sbatch_script(parameters(resources, **slurm), Path("/jobs/%j"), None)
    return {line.removeprefix("#SBATCH --") for line in script.splitlines() if "#SBATCH" in line}


def memory_options(**arguments):
    return {option for option in options(**arguments) if option.startswith("mem")}


@pytest.mark.parametrize("unit", MEMORY_UNITS)
def test_memory_unit_of_the_site_is_the_only_memory_option(unit):
    assert memory_options(memory=unit) == MEMORY[unit]


def test_memory_per_gpu_of_a_cpu_run_is_per_core():
    request = {"memory": "per-gpu", "resources": Resources(cpus=2, memory_gb=5, minutes=1)}
    assert memory_options(**request) == {"mem-per-cpu=2560MB"}


@pytest.mark.parametrize(
    ("option", "value", "written"),
    [
        ("mem", "0", {"mem=0"}),
        ("mem-per-cpu", "4G", {"mem-per-cpu=4G"}),
        ("mem_per_gpu", "60G", {"mem-per-gpu=60G"}),
        ("mem", "", set()),
    ],
)
def test_memory_in_slurm_options_replaces_ours(option, value, written):
    assert memory_options(options={option: value}) == written


@pytest.mark.parametrize(
    ("option", "value", "ours"),
    [
        ("gres", "gpu:a100:4", "gpus-per-node"),
        ("gpus", "4", "gpus-per-node"),
        ("gpus-per-task", "1", "gpus-per-node"),
        ("cpus-per-gpu", "8", "cpus-per-task"),
        ("cpus-per-task", "8", "cpus-per-task=10"),
        ("ntasks-per-node", "2", "ntasks-per-node=4"),
    ],
)
def test_slurm_options_replace_ours_that_exclude_them(option, value, ours):
    written = options(options={option: value})
    assert f"{option}={value}" in written
    assert not [line for line in written if line.startswith(ours)]


def test_slurm_options_of_several_groups_replace_all_of_ours():
    written = options(options={"mem-per-cpu": "4G", "gres": "gpu:4", "cpus-per-task": "8"})
    replaced = ("mem=", "gpus-per-node", "cpus-per-task=10")
    assert not [line for line in written if line.startswith(replaced)]
    assert {"mem-per-cpu=4G", "gres=gpu:4", "cpus-per-task=8", "requeue"} <= written


def test_names_of_options_are_those_of_sbatch():
    """sbatch's own variables for these are hidden from it."""
    given = {"name": "n", "slurm_qos": "q", "slurm_additional_parameters": {"mem": "0"}}
    assert slurm_request.slurm_options(given) == {"job_name", "qos", "additional_parameters", "mem"}


def test_requeue_in_slurm_options_replaces_ours():
    assert "requeue" in options()
    assert "requeue" not in options(options={"requeue": ""})
