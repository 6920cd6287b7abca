"""cancel_runs: which jobs are cancelled, what is recorded, and what is undone."""

import os
from time import strftime

import pytest

from matched import cancellation, job_status
from matched.cancellation import cancel_runs

NAMES = ["small.LN.0", "small.DyT.0", "large.LN.0", "large.DyT.0"]


@pytest.fixture
def queued(project, monkeypatch):
    """Four runs of three Slurm jobs; the first of job 41 has started, and another has finished."""
    for name, job_id in zip(NAMES, ("41", "41", "42", "43"), strict=True):
        project.given(name, job_id=job_id)
    project.owned(project.directory(NAMES[0]), project.job(job_id="41", token="t2"))
    project.given("small.LN.1", job_id="42")
    project.finish("small.LN.1", top1=80.0)
    project.program("squeue", 'for i in 41 42 43; do echo "${i}_N/A|$i|RUNNING|None"; done')
    monkeypatch.setattr(cancellation.getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(cancellation.time, "strftime", lambda form: strftime(form, AT))
    return project


AT = (2025, 1, 2, 3, 4, 5, 0, 0, 0)


@pytest.fixture
def cancelled(monkeypatch):
    """Return the records of the jobs that are cancelled from now on."""
    records = []
    monkeypatch.setattr(job_status, "cancel", records.extend)
    return records


def recorded(project):
    """Return who cancelled each run, by job.json."""
    return [project.directory(name).job().cancelled for name in NAMES]


def titles(stopped):
    return {job.job_id: [planned.title for planned in runs] for job, runs in stopped.items()}


def test_cancel_runs_cancels_each_job_once_with_its_unfinished_runs(queued, cancelled):
    plan = queued.plan()
    stopped = cancel_runs(plan, plan.runs)
    assert titles(stopped) == {
        "41": ["small · LN · seed 0", "small · DyT · seed 0"],
        "42": ["large · LN · seed 0"],
        "43": ["large · DyT · seed 0"],
    }
    assert [record.job for record in cancelled] == list(stopped)
    assert cancelled[0].token == "t2", "the record of the owner"
    assert recorded(queued) == ["ada, 2025-01-02 03:04"] * 4
    assert queued.directory("small.LN.1").job().cancelled == "", "it has finished"


def test_cancel_runs_leaves_other_jobs_alone(queued, cancelled):
    plan = queued.plan()
    selected = [planned for planned in plan.runs if planned.title == "large · LN · seed 0"]
    assert titles(cancel_runs(plan, selected)) == {"42": ["large · LN · seed 0"]}
    assert recorded(queued) == ["", "", "ada, 2025-01-02 03:04", ""]
    new = [planned for planned in plan.runs if planned.title == "large · LN · seed 1"]
    assert cancel_runs(plan, new) == {}


def test_cancel_runs_names_the_other_runs_of_a_job(queued, cancelled):
    queued.given("small.DyT.1", job_id="41")
    plan = queued.plan()
    with pytest.raises(ValueError) as refusal:
        cancel_runs(plan, plan.runs[:1])
    assert str(refusal.value) == (
        "slurm job 41 computes other runs too (small · DyT · seed 0; small · DyT · seed 1); a job "
        "can only be cancelled as a whole: do not pass --row, --arm or --seed"
    )
    assert cancelled == [] and recorded(queued) == [""] * 4


def test_cancel_runs_records_first_and_undoes_that_if_refused(queued, monkeypatch):
    plan, before = queued.plan(), []

    def refuse(jobs):
        before.extend(recorded(queued))
        raise ValueError("access denied")

    monkeypatch.setattr(job_status, "cancel", refuse)
    with pytest.raises(ValueError, match="access denied"):
        cancel_runs(plan, plan.runs)
    assert before == ["ada, 2025-01-02 03:04"] * 4 and recorded(queued) == [""] * 4


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_user_without_a_name_is_a_number(monkeypatch, error):
    def no_name():
        raise error

    monkeypatch.setattr(cancellation.getpass, "getuser", no_name)
    assert cancellation._user_name() == f"user {os.getuid()}"
