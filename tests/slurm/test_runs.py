"""Training runs on a real Slurm: whatever happens to their jobs, they end as if undisturbed."""

import time

import pytest
import torch

from .conftest import Project

pytestmark = pytest.mark.slurm
LN, DYT = "vit_b.LN.0", "vit_b.DyT.0"
# 176 steps, some seconds. Images are mixed within micro-batches, so four processes have to have
# them as large as one has.
EPOCHS = {"epochs": 4, "micro_batch": 8}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cluster):
    """The pair of ``EPOCHS``, computed on this machine without Slurm."""
    project = Project(tmp_path_factory.mktemp("undisturbed"), cluster)
    project.recipe(config=EPOCHS)
    project.matched("submit", "table1", "--wait")
    return project


def assert_as_undisturbed(project, undisturbed, *names):
    """Result, every line of metrics and every weight are those of the undisturbed run."""
    for name in names:
        one, other = project.directory(name), undisturbed.directory(name)
        assert project.states()[name] == "done"
        assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
        results = [p.file(name, "result.json") for p in (project, undisturbed)]
        assert results[0]["metrics"] == results[1]["metrics"]
        last = [torch.load(newest(path), weights_only=True) for path in (one, other)]
        assert_equal(*last)


def newest(directory):
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


def test_a_table_is_an_array_of_which_so_many_run_at_a_time(project, cluster):
    project.recipe(seeds=(0, 1), runs_per_job=1)
    project.site(parallel=2)
    assert "4 of 4 runs submitted in 4 jobs (slurm)" in project.submit()
    array = project.job(LN).partition("_")[0]
    cluster.wait_until(lambda: "RUNNING" in cluster.queue().values())
    shown = project.matched("status", "table1", code=None)
    assert f"slurm job {array}_3 PENDING (JobArrayTaskLimit)" in " ".join(shown.split())
    assert "0 of 4 runs submitted" in project.submit(), "what is at work is left alone"
    follower = project.start("logs", project.directory(LN).name, "-f") if begun(project) else None
    most = 0
    while "PENDING" in (states := cluster.queue().values()) or "RUNNING" in states:
        most = max(most, list(states).count("RUNNING"))
        time.sleep(0.1)
    assert most == 2
    assert set(project.states().values()) == {"done"}
    told, _ = follower.communicate(timeout=30)
    assert f"{project.directory(LN).name} done" in told, "the log was followed to the run's end"
    table = project.matched("table", "table1")
    assert "4/4" in table and "yes" in table


def begun(project):
    project._wait_until((project.directory(LN) / "log.txt").exists, 30)
    return True


def test_an_urgent_job_preempts_a_pack_which_goes_on_where_it_was(project, cluster, undisturbed):
    project.recipe(config=EPOCHS, runs_per_job=2)
    project.site(checkpoint_steps=100_000)  # all that is saved is saved on the signal
    project.submit()
    project.wait_for_results(LN)
    project._wait_until(lambda: '"step": 11' in metrics(project, DYT), 60)
    urgent = cluster.submit("true", "--partition=urgent", "--nodes=4", "--exclusive")
    cluster.wait_until(lambda: cluster.queue()[urgent] == "COMPLETED", 60)
    project.wait_for_results()
    assert cluster.job(project.job(DYT))["Restarts"] == "1"
    assert "interrupted after step" in project.log(DYT)
    assert "resumed from step" in project.log(DYT)
    assert project.log(LN).count("starts (process") == 1, "a finished run is not begun again"
    assert_as_undisturbed(project, undisturbed, LN, DYT)


def metrics(project, name):
    path = project.directory(name) / "metrics.jsonl"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_two_nodes_of_two_processes_are_told_stop_at_one_step_and_go_on(
    project, cluster, undisturbed
):
    project.recipe(config=EPOCHS, processes=4, runs_per_job=2)
    project.site(checkpoint_steps=100_000)
    project.submit()
    project._wait_until(lambda: '"step": 11' in metrics(project, LN), 120)
    job = project.job(LN)
    assert (cluster.job(job)["NumNodes"], cluster.job(job)["NumTasks"]) == ("2", "4")
    cluster.run("scancel", "--signal=USR2", job)  # as before a time limit
    project.wait_for_results(seconds=150)
    assert cluster.job(job)["Restarts"] == "1"
    assert project.log(LN).count("interrupted after step") == 1
    assert "process 0 of 4" in project.log(LN)
    for name in (LN, DYT):
        found, expected = (p.file(name, "result.json") for p in (project, undisturbed))
        assert found["metrics"]["loss"] == pytest.approx(expected["metrics"]["loss"], rel=1e-3)
        assert found["steps"] == expected["steps"]


def test_a_node_that_dies_costs_what_was_not_saved(project, cluster, undisturbed):
    project.recipe(config=EPOCHS, runs_per_job=2)
    project.submit()
    project.wait_for_step(LN, 44)
    node = cluster.job(project.job(LN))["NodeList"]
    cluster.fail_node(node)
    cluster.restore_node(node)
    project.wait_for_results()
    assert "resumed from step" in project.log(LN)
    assert_as_undisturbed(project, undisturbed, LN, DYT)


def test_cancelled_runs_say_so_and_go_on_when_submitted_again(project, cluster, undisturbed):
    project.recipe(config=EPOCHS, runs_per_job=2)
    project.site(checkpoint_steps=100_000)
    project.submit()
    project._wait_until(lambda: '"step": 11' in metrics(project, LN), 60)
    told = project.matched("cancel", "table1")
    assert "2 runs asked to stop, in 1 jobs" in told
    cluster.wait_until(lambda: cluster.queue()[project.job(LN)] == "CANCELLED")
    shown = project.matched("status", "table1", code=1)
    assert set(project.states().values()) == {"failed"} and "cancelled by" in shown
    project.submit()
    project.wait_for_results()
    assert "interrupted after step" in project.log(LN), "what was reached was saved"
    assert_as_undisturbed(project, undisturbed, LN, DYT)


def test_slurms_word_for_the_end_of_a_job_is_shown_without_accounting(project, cluster):
    project.recipe(runs_per_job=2)
    project.submit()
    job = project.job(LN)
    cluster.run("scancel", job)
    cluster.wait_until(lambda: cluster.queue()[job] == "CANCELLED")
    shown = " ".join(project.matched("status", "table1", code=1).split())
    assert f"slurm job {job} ended without a result (CANCELLED)" in shown


CHAIN = """
from dataclasses import replace as _replace

def chained(table):
    (scale,) = table.scales
    begin = scale.runs["vit_b"]
    begin = _replace(begin, config=_replace(begin.config, epochs=1))
    runs = {"vit_b": _replace(scale.runs["vit_b"], needs={"begin": begin})}
    return _replace(table, scales=(_replace(scale, runs=runs),))

TABLE = chained(TABLE)
"""


def test_what_a_run_needs_comes_first_and_its_failure_is_told_and_healed(project, cluster):
    project.recipe(runs_per_job=2)
    recipe = project.root / "recipes" / "cvpr2025" / "table01.py"
    recipe.write_text(recipe.read_text(encoding="utf-8") + CHAIN, encoding="utf-8")
    # A run directory whose owner cannot be written down: the first need fails, once.
    shown = project.matched("plan", "table1", "--cluster", "slurm")
    need, other, *dependents = [line.split()[-3] for line in shown.splitlines() if "new" in line]
    obstacle = project.root / "runs" / "dyt_vision.supervised.train" / need / "owners"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    project.submit()
    first = project.job(LN)
    project._wait_until(lambda: cluster.queue()[first] == "COMPLETED", 60)
    assert project.states() == {LN: "failed", DYT: "done"}
    status = " ".join(project.matched("status", "table1", code=1).split())
    assert f"blocked by dyt_vision.supervised:train {need} (begin), which is failed: File" in status
    obstacle.unlink()
    project.matched("retry", "table1", "--cluster", "slurm")
    project.wait_for_results(LN, DYT)
    assert set(project.states().values()) == {"done"}
    assert len(dependents) == 2 and other != need


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"partition": "typo"}, "Invalid partition name specified"),
        ({"partition": "closed", "account": "typo"}, "Invalid account or account/partition"),
    ],
    ids=["partition", "account"],
)
def test_slurm_refuses_in_its_own_words_in_one_line(project, keys, words):
    project.site(**keys)
    printed = project.submit(code=2)
    (line,) = printed.splitlines()
    assert line.startswith("matched: error: Slurm refused the job: ")
    assert words in line
    assert set(project.states().values()) == {"new"}


LATE = '''
"""A task that says which version of it was computed."""

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
LATE_TABLE = """
from late import Config
from matched import Resources, Run, Scale, Table

SCALE = Scale(
    name="smoke",
    runs={"vit_b": Run(task="late:train", config=Config())},
    seeds=(0,),
    resources=Resources(minutes=30, runs_per_job=2),
)
TABLE = Table(arms=TABLE.arms, scales=(SCALE,))
"""


def test_editing_the_code_while_jobs_wait_changes_none_of_a_snapshot(project, cluster):
    code = project.root / "shared" / "late" / "src" / "late.py"
    project.write("shared/late/src/late.py", LATE)
    project.environment["PYTHONPATH"] = str(code.parent)
    recipe = project.root / "recipes" / "cvpr2025" / "table01.py"
    recipe.write_text(recipe.read_text(encoding="utf-8") + LATE_TABLE, encoding="utf-8")
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
        difference = (project.root / submitted["submission"] / "uncommitted.diff").read_text()
        assert len(submitted["commit"]) == 40 and "+    return Outcome(" in difference
