"""Training runs on a real Slurm: disturbed jobs give the results of undisturbed ones."""

import os
import time

import pytest
import torch

from .conftest import Project

pytestmark = pytest.mark.slurm
LN, DYT = "vit_b.LN.0", "vit_b.DyT.0"
# 176 steps, a few seconds. Mixup acts within a micro-batch, so that one process and four need
# micro-batches of the same size.
EPOCHS = {"epochs": 4, "micro_batch": 8}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cluster):
    """The LN and DyT runs of ``EPOCHS``, computed on this machine without Slurm."""
    project = Project(tmp_path_factory.mktemp("undisturbed"), cluster)
    project.recipe(config=EPOCHS)
    project.matched("submit", "table1", "--wait")
    return project


def assert_same_as_undisturbed(project, undisturbed, *names):
    """Check that result, metrics.jsonl and the last checkpoint equal the undisturbed run's."""
    for name in names:
        run, reference = project.directory(name), undisturbed.directory(name)
        assert project.states()[name] == "done"
        assert (run / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()
        results = [p.file(name, "result.json") for p in (project, undisturbed)]
        assert results[0]["metrics"] == results[1]["metrics"]
        states = [
            torch.load(newest_checkpoint(path), weights_only=True) for path in (run, reference)
        ]
        assert_equal(*states)


def newest_checkpoint(directory):
    return max((directory / "checkpoints").glob("step_*.pt"))


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    else:
        assert a == b


def test_table_is_an_array_with_limited_parallelism(project, cluster):
    project.recipe(seeds=(0, 1), runs_per_job=1)
    project.site(parallel=2)
    assert "4 of 4 runs submitted in 4 jobs (slurm)" in project.submit()
    array = project.job(LN).partition("_")[0]
    cluster.wait_until(lambda: "RUNNING" in cluster.queue().values())
    status = project.matched("status", "table1", code=None)
    assert f"slurm job {array}_3 PENDING (JobArrayTaskLimit)" in " ".join(status.split())
    assert "0 of 4 runs submitted" in project.submit(), "queued and running runs are left alone"
    project.wait_until((project.directory(LN) / "log.txt").exists, 30)
    follower = project.start("logs", project.directory(LN).name, "-f")
    most_running = 0
    while "PENDING" in (states := cluster.queue().values()) or "RUNNING" in states:
        most_running = max(most_running, list(states).count("RUNNING"))
        time.sleep(0.1)
    assert most_running == 2
    assert set(project.states().values()) == {"done"}
    log, _ = follower.communicate(timeout=30)
    assert f"{project.directory(LN).name} done" in log, "the log was followed to the run's end"
    table = project.matched("table", "table1")
    assert "4/4" in table and "yes" in table


def test_preempted_job_resumes_bit_identically(project, cluster, undisturbed):
    project.recipe(config=EPOCHS, runs_per_job=2)
    project.site(checkpoint_steps=100_000)  # so that only the signal saves
    project.submit()
    project.wait_for_results(LN)
    project.wait_until(lambda: '"step": 11' in metrics(project, DYT), 60)
    urgent = cluster.submit("true", "--partition=urgent", "--nodes=4", "--exclusive")
    cluster.wait_until(lambda: cluster.queue()[urgent] == "COMPLETED", 60)
    project.wait_for_results()
    assert cluster.job(project.job(DYT))["Restarts"] == "1"
    assert "interrupted after step" in project.log(DYT)
    assert "resumed from step" in project.log(DYT)
    assert project.log(LN).count("starts (process") == 1, "a finished run is not computed again"
    assert_same_as_undisturbed(project, undisturbed, LN, DYT)


def metrics(project, name):
    path = project.directory(name) / "metrics.jsonl"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_two_nodes_stop_at_the_same_step_and_resume(project, cluster, undisturbed):
    project.recipe(config=EPOCHS, processes=4, runs_per_job=2)
    project.site(checkpoint_steps=100_000)
    project.submit()
    project.wait_until(lambda: '"step": 11' in metrics(project, LN), 120)
    job = project.job(LN)
    assert (cluster.job(job)["NumNodes"], cluster.job(job)["NumTasks"]) == ("2", "4")
    cluster.run("scancel", "--signal=USR2", job)  # as before a time limit
    project.wait_for_results(seconds=150)
    assert cluster.job(job)["Restarts"] == "1"
    assert project.log(LN).count("interrupted after step") == 1
    assert "process 0 of 4" in project.log(LN)
    for name in (LN, DYT):
        result, expected = (p.file(name, "result.json") for p in (project, undisturbed))
        assert result["metrics"]["loss"] == pytest.approx(expected["metrics"]["loss"], rel=1e-3)
        assert result["steps"] == expected["steps"]


def test_failed_node_resumes_from_the_last_checkpoint(project, cluster, undisturbed):
    project.recipe(config=EPOCHS, runs_per_job=2)
    project.submit()
    project.wait_for_step(LN, 44)
    node = cluster.job(project.job(LN))["NodeList"]
    cluster.fail_node(node)
    cluster.restore_node(node)
    project.wait_for_results()
    assert "resumed from step" in project.log(LN)
    assert_same_as_undisturbed(project, undisturbed, LN, DYT)


def test_cancelled_runs_resume_when_submitted_again(project, cluster, undisturbed):
    project.recipe(config=EPOCHS, runs_per_job=2)
    project.site(checkpoint_steps=100_000)
    project.submit()
    project.wait_until(lambda: '"step": 11' in metrics(project, LN), 60)
    output = project.matched("cancel", "table1")
    assert "2 runs asked to stop, in 1 job" in output
    cluster.wait_until(lambda: cluster.queue()[project.job(LN)] == "CANCELLED")
    status = project.matched("status", "table1", code=1)
    assert set(project.states().values()) == {"failed"} and "cancelled by" in status
    project.submit()
    project.wait_for_results()
    assert "interrupted after step" in project.log(LN), "a checkpoint was saved"
    assert_same_as_undisturbed(project, undisturbed, LN, DYT)


def test_status_shows_slurms_state_without_accounting(project, cluster):
    project.recipe(runs_per_job=2)
    project.submit()
    job = project.job(LN)
    cluster.run("scancel", job)
    cluster.wait_until(lambda: cluster.queue()[job] == "CANCELLED")
    status = " ".join(project.matched("status", "table1", code=1).split())
    assert f"slurm job {job} ended without a result (CANCELLED)" in status


CHAIN = """
begin = SCALE.runs["vit_b"]
begin = replace(begin, config=replace(begin.config, epochs=1))
SCALE = replace(SCALE, runs={"vit_b": replace(SCALE.runs["vit_b"], needs={"begin": begin})})
"""


def test_failed_need_blocks_its_dependents_until_retry(project, cluster):
    project.recipe(runs_per_job=2)
    project.change_smoke_scale(CHAIN)
    # Make the first need fail once: a file where its directory should have the folder owners/.
    plan = project.matched("plan", "table1", "--cluster", "slurm")
    need, other, *dependents = [line.split()[-3] for line in plan.splitlines() if "new" in line]
    obstacle = project.root / "runs" / "dyt_vision.supervised.train" / need / "owners"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    project.submit()
    first = project.job(LN)
    project.wait_until(lambda: cluster.queue()[first] == "COMPLETED", 60)
    assert project.states() == {LN: "failed", DYT: "done"}
    status = " ".join(project.matched("status", "table1", code=1).split())
    assert f"blocked by dyt_vision.supervised:train {need} (begin), which is failed: File" in status
    obstacle.unlink()
    project.matched("retry", "table1", "--cluster", "slurm")
    project.wait_for_results(LN, DYT)
    assert set(project.states().values()) == {"done"}
    assert len(dependents) == 2 and other != need


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"partition": "typo"}, "Invalid partition name specified"),
        ({"partition": "closed", "account": "typo"}, "Invalid account or account/partition"),
    ],
    ids=["partition", "account"],
)
def test_sbatch_error_is_quoted_in_one_line(project, keys, message):
    project.site(**keys)
    (line,) = project.submit(code=2).splitlines()
    assert line.startswith("matched: error: Slurm refused the job: ")
    assert message in line
    assert set(project.states().values()) == {"new"}


LATE = '''
"""A task that reports which version of its code was computed."""

from dataclasses import dataclass

from matched import Outcome


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    norm: object = None
    data: tuple[str, ...] = ()


def train(context, config):
    return Outcome(metrics={"top1": 1.0}, steps=1, details={"version": "as submitted"})
'''
LATE_SCALE = """
from late import Config

SCALE = Scale(
    name="smoke",
    runs={"vit_b": Run(task="late:train", config=Config())},
    seeds=(0,),
    resources=Resources(minutes=30, runs_per_job=2),
)
"""


def test_snapshot_jobs_ignore_later_edits(project, cluster):
    code = project.root / "shared" / "late" / "src" / "late.py"
    project.write("shared/late/src/late.py", LATE)
    inherited = filter(None, [project.environment.get("PYTHONPATH")])
    project.environment["PYTHONPATH"] = os.pathsep.join([str(code.parent), *inherited])
    project.change_smoke_scale(LATE_SCALE)
    user = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "recipes"), (*user, "commit", "-qm", "first")):
        cluster.run("git", "-C", str(project.root), *command)
    project.site(options={"begin": "now+3"})
    project.submit("--snapshot")
    code.write_text(LATE.replace("as submitted", "edited later"), encoding="utf-8")
    project.wait_for_results()
    for name in (LN, DYT):
        assert project.file(name, "result.json")["details"] == {"version": "as submitted"}
        submitted = project.file(name, "environment.json")["submitted"]
        diff = (project.root / submitted["submission"] / "uncommitted.diff").read_text()
        assert len(submitted["commit"]) == 40 and "+    return Outcome(" in diff


OUTER_JOB = {
    "SLURM_JOB_ID": "1",
    "SLURM_CPUS_PER_TASK": "1",
    "SLURM_MEM_PER_CPU": "1",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_TRES_PER_TASK": "cpu:1",
    "SBATCH_MEM_PER_NODE": "1",
    "SBATCH_TIMELIMIT": "1",
    "RANK": "1",
    "WORLD_SIZE": "2",
}


@pytest.mark.parametrize("memory", ["per-cpu", "none"])
def test_submission_inside_an_allocation_has_its_own_request(project, cluster, memory):
    """Time, cores and memory are those of the recipe and site.toml, not of the outer job."""
    project.environment.update(OUTER_JOB)
    project.recipe(cpus=2, memory_gb=1)
    project.site(memory=memory)
    project.submit()
    job = cluster.job(project.job(LN))
    assert (job["TimeLimit"], job["NumCPUs"]) == ("01:00:00", "2"), "two runs"
    assert job.get("MinMemoryCPU") == ("512M" if memory == "per-cpu" else None)

    def step():
        steps = cluster.run("scontrol", "--oneliner", "show", "step")
        return [line for line in steps.splitlines() if f"StepId={job['JobId']}.0 " in line]

    project.wait_until(step, 30)
    assert "TRES=cpu=2," in step()[0]
    project.wait_for_step(LN, 11)
