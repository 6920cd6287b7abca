"""What a job asks of the machine or of Slurm."""

import pytest

from matched import Resources, slurm_request
from matched.site import Local, Site, Slurm

PAPER = Resources(gpus=64, cpus=10, memory_gb=48, minutes=48 * 60)


def asked(resources=PAPER, runs=1, cluster="slurm", **slurm):
    site = Site(file="site.toml", slurm=Slurm(**slurm), local=Local())
    return slurm_request.executor_parameters(resources, site, cluster, runs)


def test_paper_scale_on_nodes_of_eight():
    assert asked() == {
        "name": "matched",
        "nodes": 8,
        "tasks_per_node": 8,
        "gpus_per_node": 8,
        "cpus_per_task": 10,
        "mem_gb": 8 * 48,
        "timeout_min": 24 * 60,
        "slurm_array_parallelism": 64,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_signal_delay_s": 120,
        "slurm_additional_parameters": {"requeue": True},
    }


def test_paper_scale_on_nodes_of_four():
    found = asked(gpus_per_node=4)
    assert (found["nodes"], found["tasks_per_node"], found["gpus_per_node"]) == (16, 4, 4)
    assert found["mem_gb"] == 4 * 48


@pytest.mark.parametrize(("gpus", "nodes"), [(1, 1), (4, 1), (8, 1), (16, 2)])
def test_small_runs_take_a_part_of_a_node(gpus, nodes):
    found = asked(Resources(gpus=gpus, minutes=60))
    assert (found["nodes"], found["nodes"] * found["gpus_per_node"]) == (nodes, gpus)


@pytest.mark.parametrize(("gpus", "per_node"), [(64, 7), (12, 8), (3, 2)])
def test_gpus_that_do_not_fill_nodes_are_refused(gpus, per_node):
    with pytest.raises(ValueError, match=rf"{gpus} .* do not fill nodes of {per_node}.*\[slurm\]"):
        asked(Resources(gpus=gpus, minutes=60), gpus_per_node=per_node)


def test_the_time_is_that_of_all_runs_up_to_the_limit():
    resources = Resources(minutes=10)
    assert asked(resources, runs=3)["timeout_min"] == 30
    assert asked(resources, runs=3000)["timeout_min"] == 24 * 60
    assert asked(max_hours=72)["timeout_min"] == 48 * 60
    assert asked(max_hours=2)["timeout_min"] == 120


def test_a_run_without_gpus_asks_for_none():
    found = asked(Resources(minutes=10, cpus=2, memory_gb=5))
    assert "gpus_per_node" not in found and "slurm_srun_args" not in found
    assert (found["nodes"], found["tasks_per_node"]) == (1, 1)
    assert (found["cpus_per_task"], found["mem_gb"]) == (2, 5)


def test_the_choices_of_the_site_are_passed_on():
    found = asked(
        partition="gpu",
        account="a1",
        qos="q",
        constraint="c",
        parallel=3,
        grace_seconds=30,
        setup=("module load cuda",),
        options={"exclude": "node7"},
    )
    assert found["slurm_partition"] == "gpu"
    assert found["slurm_account"] == "a1"
    assert found["slurm_qos"] == "q"
    assert found["slurm_constraint"] == "c"
    assert found["slurm_array_parallelism"] == 3
    assert found["slurm_signal_delay_s"] == 30
    assert found["slurm_setup"] == ["module load cuda"]
    assert found["slurm_additional_parameters"] == {"requeue": True, "exclude": "node7"}


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_this_machine_is_asked_for_processes_alone(cluster):
    found = asked(Resources(gpus=2, minutes=1), cluster=cluster, partition="gpu")
    assert (found["nodes"], found["tasks_per_node"]) == (1, 2)
    assert not [key for key in found if "slurm" in key]
