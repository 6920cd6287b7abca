"""The cluster of these tests does what a real one does, and is gone afterwards."""

import pytest

from .cluster import NODES, Cluster

pytestmark = pytest.mark.slurm

# Sleeps, but once it has been told to go it has itself queued again, as submitit does.
PATIENT = """
[ -n "$SLURM_RESTART_COUNT" ] && { echo back; exit; }
trap 'echo told; scontrol requeue $SLURM_JOB_ID; exit' USR2
echo ready
sleep 100 & wait
"""


def reaches(cluster, job, state):
    cluster.wait_until(lambda: cluster.queue()[job] == state)


def test_a_job_turns_round_on_several_nodes(cluster):
    job = cluster.submit("srun printenv SLURMD_NODENAME", "--nodes=2", "--ntasks-per-node=2")
    reaches(cluster, job, "COMPLETED")
    first, second = NODES[:2]
    assert sorted(cluster.output(job).split()) == [first, first, second, second]


def test_an_array_has_a_state_for_each_task(cluster):
    job = cluster.submit("srun true", "--array=0-3%2")
    tasks = [f"{job}_{i}" for i in range(4)]
    cluster.wait_until(lambda: all(cluster.queue()[task] == "COMPLETED" for task in tasks))
    assert job not in cluster.queue()


def test_an_urgent_job_has_others_told_and_queued_again(cluster):
    job = cluster.submit(PATIENT, "--nodes=4", "--signal=B:USR2@90", "--time=30")
    # Slurm calls it running before there is a process to be told, and tells it once.
    cluster.wait_until(lambda: "ready" in cluster.output(job))
    urgent = cluster.submit("true", "--partition=urgent", "--nodes=4", "--exclusive")
    reaches(cluster, urgent, "COMPLETED")
    assert cluster.job(job)["Restarts"] == "1"
    reaches(cluster, job, "COMPLETED")
    words = cluster.output(job)
    assert words.index("ready") < words.index("told") < words.index("back")


def test_the_jobs_of_a_failed_node_are_queued_again(cluster):
    job = cluster.submit("sleep 100")
    reaches(cluster, job, "RUNNING")
    node = cluster.job(job)["NodeList"]
    cluster.fail_node(node)
    assert cluster.processes(node) == []
    reaches(cluster, job, "PENDING")
    assert cluster.job(job)["Restarts"] == "1"
    cluster.restore_node(node)


def test_a_bad_account_is_refused(cluster):
    with pytest.raises(RuntimeError, match="Invalid account or account/partition combination"):
        cluster.submit("true", "--partition=closed", "--account=typo")


def test_nothing_is_left_behind(tmp_path):
    with Cluster(tmp_path) as another:
        job = another.submit("srun bash -c 'trap : TERM; sleep 100; sleep 100'")
        reaches(another, job, "RUNNING")
    assert another.daemons == {}
    assert another.processes() == []
