"""The private cluster of these tests: arrays, preemption, failed nodes, and its end."""

import pytest

from .cluster import NODES, Cluster

pytestmark = pytest.mark.slurm

# Sleeps; requeues itself when it gets the preemption signal, as submitit does.
REQUEUES_ITSELF = """
[ -n "$SLURM_RESTART_COUNT" ] && { echo restarted; exit; }
trap 'echo signalled; scontrol requeue $SLURM_JOB_ID; exit' USR2
echo ready
sleep 100 & wait
"""


def wait_for_state(cluster, job, state):
    cluster.wait_until(lambda: cluster.queue()[job] == state)


def test_cluster_runs_a_job_on_several_nodes(cluster):
    job = cluster.submit("srun printenv SLURMD_NODENAME", "--nodes=2", "--ntasks-per-node=2")
    wait_for_state(cluster, job, "COMPLETED")
    first, second = NODES[:2]
    assert sorted(cluster.output(job).split()) == [first, first, second, second]


def test_cluster_has_a_state_for_each_array_task(cluster):
    job = cluster.submit("srun true", "--array=0-3%2")
    tasks = [f"{job}_{i}" for i in range(4)]
    cluster.wait_until(lambda: all(cluster.queue()[task] == "COMPLETED" for task in tasks))
    assert job not in cluster.queue()


def test_urgent_job_preempts_and_signals_others(cluster):
    job = cluster.submit(REQUEUES_ITSELF, "--nodes=4", "--signal=B:USR2@90", "--time=30")
    # Slurm signals a job only once, and reports it as running before it has a process.
    cluster.wait_until(lambda: "ready" in cluster.output(job))
    urgent = cluster.submit("true", "--partition=urgent", "--nodes=4", "--exclusive")
    wait_for_state(cluster, urgent, "COMPLETED")
    assert cluster.job(job)["Restarts"] == "1"
    wait_for_state(cluster, job, "COMPLETED")
    output = cluster.output(job)
    assert output.index("ready") < output.index("signalled") < output.index("restarted")


def test_jobs_of_a_failed_node_are_requeued(cluster):
    job = cluster.submit("sleep 100")
    wait_for_state(cluster, job, "RUNNING")
    node = cluster.job(job)["NodeList"]
    cluster.fail_node(node)
    assert cluster.processes(node) == []
    wait_for_state(cluster, job, "PENDING")
    assert cluster.job(job)["Restarts"] == "1"
    cluster.restore_node(node)


def test_sbatch_refuses_a_bad_account(cluster):
    with pytest.raises(RuntimeError, match="Invalid account or account/partition combination"):
        cluster.submit("true", "--partition=closed", "--account=typo")


def test_cluster_leaves_no_process(tmp_path):
    with Cluster(tmp_path) as second:
        job = second.submit("srun bash -c 'trap : TERM; sleep 100; sleep 100'")
        wait_for_state(second, job, "RUNNING")
    assert second.daemons == {}
    assert second.processes() == []
