"""Submission: the command of a job's Python, records of jobs, and Slurm's messages."""

import logging
import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from matched import lease, submission, submitit_internals
from matched.signals import PREEMPTION_SIGNAL


def submission_of(plan, root, cluster):
    """A submission with a job for each run."""
    return submission._Submission(
        plan=plan,
        packed=[SimpleNamespace(runs=[one], resources=one.resources) for one in plan.runs],
        cluster=cluster,
        folder=root / "jobs",
        code={"submission": "/submissions/1"},
        python="python",
        token="t7",
    )


@pytest.mark.parametrize(
    ("path", "first"),
    [(None, []), ("/a b:/c", ["env", "PYTHONPATH=/a b:/c"]), ("", ["env", "PYTHONPATH="])],
)
def test_python_of_a_job_blocks_the_preemption_signal_at_first(path, first):
    command = shlex.split(submission._python_command(path))
    assert command[: len(first)] == first
    python, *options, code, argument = command[len(first) :]
    assert (python, options, argument) == (sys.executable, ["-I", "-S", "-c"], sys.executable)
    assert code == (
        "import os, signal, sys; "
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(PREEMPTION_SIGNAL)}]); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )


def test_python_of_a_job_keeps_arguments_and_blocked_signal():
    program = "import signal, sys; print(signal.pthread_sigmask(0, []), sys.argv[1])"
    command = f"{submission._python_command(None)} -c {shlex.quote(program)} last"
    out = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    assert f"<Signals.{PREEMPTION_SIGNAL.name}: {PREEMPTION_SIGNAL.value}>" in out
    assert out.endswith("last\n") and signal.SIGTERM.name not in out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n two \n\n"), "two"),
        (
            subprocess.CalledProcessError(1, "sbatch", output=b"a\nno such partition\n"),
            "no such partition",
        ),
        (subprocess.CalledProcessError(1, "sbatch", output="text"), "text"),
        (ValueError(""), "ValueError"),
    ],
)
def test_message_of_slurm_is_the_last_line(error, line):
    assert submission._last_line(error) == line


@pytest.mark.parametrize(
    ("place", "kept"), [("mine/t.py", True), ("mine/u.py", False), ("../t.py", False)]
)
def test_snapshot_has_to_contain_the_recipe(tmp_path, place, kept):
    project = tmp_path / "project"
    (tmp_path / "copy" / "mine").mkdir(parents=True)
    (tmp_path / "copy" / "mine" / "t.py").touch()
    path = Path(os.path.normpath(project / place))
    recipe = SimpleNamespace(path=path, project=project)
    code = {"snapshot": str(tmp_path / "copy")}
    if kept:
        submission._check_recipe_in_snapshot(recipe, code)
        return
    with pytest.raises(ValueError) as error:
        submission._check_recipe_in_snapshot(recipe, code)
    assert str(error.value) == (
        f"--snapshot copies the files of {project} that git does not ignore, and {path} is not "
        "among them; move it there, or submit without a snapshot"
    )


def test_submission_logs_notes_on_memory_and_time(one_row, monkeypatch, caplog):
    class StopHere(Exception):
        pass

    def record_submission(*arguments, **options):
        raise StopHere

    monkeypatch.setattr(submission, "memory_note", lambda *arguments: "little memory")
    monkeypatch.setattr(submission, "time_note", lambda *arguments: "much time")
    monkeypatch.setattr(submission.provenance, "record_submission", record_submission)
    monkeypatch.setattr(logging.getLogger("matched"), "propagate", True)
    with pytest.raises(StopHere):
        submission.submit(one_row.plan(), "local")
    assert caplog.messages == ["little memory", "much time"]


def test_submission_whose_runs_were_finished_meanwhile_writes_nothing(one_row):
    plan = one_row.plan()
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.finish(name, top1=1.0)
    submitted, jobs = submission.submit(plan, "debug")
    assert jobs == [] and not submitted.missing
    assert not (one_row.root / "runs" / ".jobs" / "submissions").exists()


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_jobs_are_passed_to_submitit_with_all_that_they_need(one_row, monkeypatch, capsys, cluster):
    events = []

    class Executor:
        def __init__(self, **options):
            events.append(options)

        def update_parameters(self, **parameters):
            events.append(parameters)

        @contextmanager
        def batch(self):
            print("sbatch: error", file=sys.stderr)
            yield

        def submit(self, runner):
            return runner

    @contextmanager
    def recorded(*arguments):
        events.append(arguments)
        yield

    monkeypatch.setattr(submission.submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(submission.submitit_internals, "background_streams", recorded)
    monkeypatch.setattr(submission, "submission_environment", recorded)
    plan = one_row.plan()
    submitted = submission_of(plan, one_row.root, cluster)
    parameters = {"timeout_min": 30, "slurm_partition": "gpu"}
    (runner,) = submitted._start([1], parameters)
    folder = {"folder": one_row.root / "jobs" / "%j", "cluster": cluster}
    assert events == [
        {**folder, "slurm_python": "python", "local_python": "python"},
        parameters,
        *([(Path("/submissions/1/controllers.log"),)] if cluster == "local" else []),
        ({"time", "partition"}, cluster),
    ]
    assert (runner.runs, runner.resources) == ([plan.runs[1].run], [plan.runs[1].resources])
    assert (runner.token, runner.code, runner.minutes) == ("t7", submitted.code, 30)
    assert runner.site is plan.site
    assert (runner.threads, runner.gpus) == ((10, None) if cluster == "slurm" else (1, ()))
    assert capsys.readouterr().err == "", "errors of sbatch are raised"


class Job:
    """A job as submitit returns it."""

    def __init__(self, folder):
        self.job_id, self.paths = "41_0", SimpleNamespace(folder=folder)


@pytest.mark.parametrize(("cluster", "job_id"), [("slurm", "slurm:41_0"), ("debug", None)])
def test_submitted_runs_record_their_job(one_row, monkeypatch, cluster, job_id):
    """An earlier failure is deleted before the job starts."""
    plan = one_row.plan()
    for planned in plan.runs:
        planned.directory.path.mkdir(parents=True)
        (planned.directory / "failure.json").write_text("{}")
    submitted = submission_of(plan, one_row.root, cluster)
    started = []

    def start(self, array, parameters):
        started.append((array, parameters["timeout_min"]))
        assert not (plan.runs[1].directory / "failure.json").exists()
        return [Job(one_row.root / "jobs" / "41_0")]

    monkeypatch.setattr(submission._Submission, "_start", start)
    monkeypatch.setattr(submission.time, "time", lambda: 7.5)
    submitted.submit_array([1], [])
    assert started == [([1], 30 if cluster == "slurm" else 525_600)]
    other, directory = (planned.directory for planned in plan.runs)
    assert other.job() is None and (other / "failure.json").exists()
    assert directory.has_config() and not other.has_config()
    record = directory.job()
    assert (record.token, record.at, record.submission) == ("t7", 7.5, "/submissions/1")
    assert record.folder == str(one_row.root / "jobs" / "41_0")
    assert record.user == str(os.getuid())
    assert (str(record.job) if job_id else record.job.job_id) == (job_id or str(os.getpid()))


JOB_ERROR, SUBMISSION_ERROR, PROCESS_ERROR = submitit_internals.submission_errors()


@pytest.mark.parametrize(
    "error",
    [
        JOB_ERROR("sbatch: error:\nno such partition"),
        SUBMISSION_ERROR("no such partition"),
        PROCESS_ERROR(1, "sbatch", output="no such partition\n"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_job_that_slurm_refuses_is_an_error_of_one_line(one_row, monkeypatch, error):
    def start(self, array, parameters):
        raise error

    monkeypatch.setattr(submission._Submission, "_start", start)
    monkeypatch.setattr(submission, "check_submission", lambda plan, cluster: None)
    with pytest.raises(ValueError) as refused:
        submission.submit(one_row.plan(), "slurm")
    assert str(refused.value) == "Slurm refused the job: no such partition"
    assert one_row.directory("small.LN.0").job() is None
    assert lease.owner(one_row.root / "runs" / ".jobs" / "submitting") is None, "the next's turn"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_run_in_process_records_missing_runs_on_rank_0(one_row, monkeypatch, rank):
    one_row.finish("small.LN.0", top1=1.0)
    one_row.site("[local]\nthreads = 3\n")
    runners = []

    class Runner:
        def __init__(self, **options):
            runners.append(options)

        def compute(self, *arguments):
            runners.append(arguments)
            return {"signature": "done"}

    monkeypatch.setattr(submission, "JobRunner", Runner)
    monkeypatch.setenv("RANK", rank)
    plan = one_row.plan()
    assert submission.run_in_process(plan) == {"signature": "done"}
    options, arguments = runners
    token = options.pop("token")
    assert options == {
        "runs": [planned.run for planned in plan.runs],
        "resources": [planned.resources for planned in plan.runs],
        "site": plan.site,
        "threads": 3,
    }
    assert arguments == ("here", str(os.getpid()))
    records = [planned.directory.job() for planned in plan.runs]
    assert records[0] is None, "it has a result"
    if rank == "1":
        assert records[1] is None
        return
    assert (records[1].token, records[1].folder) == (token, str(plan.runs[1].directory.path))
    assert plan.runs[1].directory.has_config()
    assert (records[1].job.cluster, records[1].job.job_id) == ("local", str(os.getpid()))
