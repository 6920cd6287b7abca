"""JobRunner: finished and damaged runs, pickling, and the end of a job with a hanging process."""

import logging
import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import cloudpickle
import pytest

from matched import Resources, job_runner, signals
from matched.job_runner import FAILURE_TIMEOUT, SUCCESS_TIMEOUT, JobRunner
from matched.peers import PeerLostError, Peers
from matched.requeue import Requeuer
from matched.status import ExecutionResult, JobId, State


def test_job_runner_skips_finished_runs(one_row, pack):
    """A requeued job only returns their outcomes."""
    one_row.finish("small.LN.0", top1=1.0)
    one_row.finish("small.DyT.0", outcome="diverged")
    before = one_row.snapshot()
    told = pack().compute("here", "1")
    assert [result.state for result in told.values()] == ["done", "diverged"]
    assert one_row.computed() == []
    assert one_row.snapshot() == before


def test_job_runner_leaves_damaged_runs_alone(one_row, pack):
    for name in ("small.LN.0", "small.DyT.0"):
        path = one_row.finish(name, top1=1.0) / "result.json"
        path.write_text("{", encoding="utf-8")
    before = one_row.snapshot()
    results = pack().compute("here", "1")
    assert all("result.json is not valid JSON" in result.reason for result in results.values())
    assert one_row.computed() == []
    assert one_row.snapshot() == before


def test_checkpoint_of_job_runner_is_the_same_job(pack):
    runner = pack()
    delayed = runner.checkpoint()
    assert delayed.function is runner and not delayed.args and not delayed.kwargs


def test_job_runner_survives_pickling(pack):
    """submitit passes it to the job as a file; signatures must not change on the way."""
    runner = pack()
    loaded = cloudpickle.loads(cloudpickle.dumps(runner))
    assert [run.signature for run in loaded.runs] == [run.signature for run in runner.runs]
    assert loaded.site == runner.site


def test_job_runner_sets_the_threads_of_libraries(one_row, pack):
    one_row.finish("small.LN.0", top1=1.0)
    one_row.finish("small.DyT.0", top1=1.0)
    runner = pack()
    runner.threads = 3
    runner.compute("here", "1")
    for library in ("OMP", "MKL", "OPENBLAS"):
        assert os.environ[f"{library}_NUM_THREADS"] == "3"


# --- the start of a job


@pytest.fixture
def started(monkeypatch):
    """Return a function that starts a job as submitit does, and returns what the job did first."""

    def start(runner, cluster, tasks=1, **environment):
        calls = []
        job = SimpleNamespace(cluster=cluster, num_tasks=tasks, job_id="41_3")

        def export(**options):
            calls.append(("export", options))
            os.environ["MASTER_ADDR"] = "node-a"

        def compute(self, *arguments):
            calls.append(("compute", *("the job" if a is job else a for a in arguments)))
            return {}

        for name in ("MASTER_ADDR", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.setenv(name, "")  # restores what the job changes
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        exporter = SimpleNamespace(export=export)
        for place, name, value in (
            (job_runner.submitit, "JobEnvironment", lambda: job),
            (job_runner.submitit.helpers, "TorchDistributedEnvironment", lambda: exporter),
            (job_runner, "drop_launcher_variables", lambda: calls.append(("drop",))),
            (signals, "signal_at_parent_exit", lambda number: calls.append(("parent", number))),
            (logging, "basicConfig", lambda **options: calls.append(("log", options))),
            (JobRunner, "compute", compute),
        ):
            monkeypatch.setattr(place, name, value)
        assert runner() == {}
        return calls

    return start


LOGGED = ("log", {"level": logging.INFO, "format": "%(asctime)s %(message)s"})
WITH_PARENT = ("parent", signal.SIGTERM)
EXPORTED = ("export", {"set_cuda_visible_devices": False, "overwrite": True})


def test_debug_job_computes_in_this_process(pack, started):
    assert started(pack(), "debug") == [("drop",), ("compute", "debug", str(os.getpid()))]


@pytest.mark.parametrize(
    ("cluster", "tasks", "calls"),
    [
        ("local", 1, [("drop",), LOGGED, WITH_PARENT, ("compute", "local", "41_3", "the job")]),
        ("slurm", 1, [("drop",), LOGGED, ("compute", "slurm", "41_3", "the job")]),
        ("local", 2, [LOGGED, WITH_PARENT, EXPORTED, ("compute", "local", "41_3", "the job")]),
        ("slurm", 2, [LOGGED, EXPORTED, ("compute", "slurm", "41_3", "the job")]),
    ],
)
def test_job_prepares_its_process(pack, started, cluster, tasks, calls):
    assert started(pack(), cluster, tasks) == calls


@pytest.mark.parametrize(
    ("cluster", "given", "address"),
    [
        ("local", {}, "localhost"),
        ("slurm", {}, "node-a"),
        ("local", {"MASTER_ADDR": "10.0.0.7"}, "10.0.0.7"),
        ("slurm", {"MASTER_ADDR": "10.0.0.7"}, "10.0.0.7"),
    ],
)
def test_job_of_several_processes_meets_at_master_addr(pack, started, cluster, given, address):
    started(pack(), cluster, 2, **given)
    assert os.environ["MASTER_ADDR"] == address


@pytest.mark.parametrize(
    ("gpus", "visible"), [(None, "7"), ((), ""), (("3",), "3"), (("1", "GPU-8a2f"), "1,GPU-8a2f")]
)
def test_job_sees_the_gpus_that_it_was_given(pack, started, gpus, visible):
    started(pack(gpus=gpus), "local", CUDA_VISIBLE_DEVICES="7")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


# --- the runs of a job


@pytest.fixture
def executed(monkeypatch):
    """Return a list of the arguments of ``execute``, and of results or errors to answer with."""
    calls, answers = [], []

    def execute(*arguments, **options):
        calls.append((arguments, options))
        answer = answers.pop(0) if answers else ExecutionResult(state=State.DONE)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(job_runner, "execute", execute)
    return SimpleNamespace(calls=calls, answers=answers)


def test_job_runner_passes_each_run_its_resources(one_row, pack, executed):
    runner = pack(minutes=90, code={"commit": "abc"})
    runner.threads = 5
    runner.resources = [
        Resources(gpus=4, cpus=3, minutes=1, shard=True, shard_degree=2),
        Resources(gpus=1, cpus=7, minutes=1),
    ]
    runner.compute("slurm", "41_3")
    (first, first_options), (second, second_options) = executed.calls
    assert [first[0], second[0]] == runner.runs
    _, site, job, peers = first
    assert site is runner.site and isinstance(peers, Peers)
    assert job.job == JobId(cluster="slurm", job_id="41_3")
    assert (job.token, job.folder) == ("t1", str(one_row.root / "runs" / ".jobs" / "41_3"))
    common = {"threads": 5, "code": {"commit": "abc"}}
    assert first_options == {**common, "num_workers": 2, "shard": True, "shard_degree": 2}
    assert second_options == {**common, "num_workers": 6, "shard": False, "shard_degree": 0}


def test_job_runner_tells_the_requeuer_about_the_job(pack, executed, monkeypatch):
    made, begun = [], []
    init = Requeuer.__init__
    monkeypatch.setattr(
        Requeuer, "__init__", lambda self, **known: made.append(known) or init(self, **known)
    )
    monkeypatch.setattr(Requeuer, "begin_run", lambda self, run: begun.append(run))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(Peers, "barrier", lambda *_: True)
    monkeypatch.setattr(Peers, "close", lambda self: begun.append("closed"))
    runner, environment = pack(minutes=90), object()
    runner.compute("slurm", "41", environment)
    assert made == [
        {
            "cluster": "slurm",
            "environment": environment,
            "site": runner.site,
            "token": "t1",
            "minutes": 90,
            "num_runs": 2,
            "rank": 1,
        }
    ]
    assert begun == [*runner.runs, "closed"]


def test_job_of_a_lost_process_fails_one_run(pack, executed, monkeypatch):
    waits = []
    monkeypatch.setattr(Peers, "barrier", lambda self, *wait: waits.append(wait) or True)
    executed.answers.append(PeerLostError("connection closed"))
    runner = pack()
    results = runner.compute("here", "1")
    first, second = (run.signature for run in runner.runs)
    assert results == {
        first: ExecutionResult(state=State.FAILED, reason="connection closed"),
        second: ExecutionResult(state=State.DONE),
    }
    assert waits == [(first, 20), (second, 3600)]


def test_job_of_a_killed_process_is_aborted(pack, executed, monkeypatch):
    reasons = []
    monkeypatch.setattr(Peers, "barrier", lambda *_: False)
    monkeypatch.setattr(Requeuer, "abort", lambda *_, **options: None)
    monkeypatch.setattr(Requeuer, "abort_after_lost_process", lambda _, why: reasons.append(why))
    executed.answers.append(PeerLostError("connection closed"))
    pack().compute("here", "1")
    assert reasons == ["connection closed"]


@pytest.mark.parametrize("when", ["before a run", "with a lost process", "in a run"])
def test_job_with_a_stop_signal_is_stopped_by_the_requeuer(pack, executed, monkeypatch, when):
    stopped, barriers, number = [], [], [None]
    monkeypatch.setattr(signals, "stop_signal", lambda: number[0])

    def stop(self, received):
        stopped.append(received)
        raise SystemExit(143)

    def execute(run, *arguments, **options):
        number[0] = signal.SIGUSR2
        if when == "with a lost process":
            raise PeerLostError("connection closed")
        if when == "in a run":
            raise signals.Interrupted
        return ExecutionResult(state=State.DONE)

    monkeypatch.setattr(Requeuer, "stop", stop)
    monkeypatch.setattr(Peers, "barrier", lambda *_: barriers.append(when) or True)
    monkeypatch.setattr(job_runner, "execute", execute)
    with pytest.raises(SystemExit):
        pack().compute("here", "1")
    assert stopped == [signal.SIGUSR2]
    assert barriers == ([when] if when == "before a run" else []), "the others stop as well"


def test_stop_passed_on_by_another_process_counts_as_sigterm(monkeypatch):
    """Its signal may arrive a little later, or never."""
    seconds, number = [100.0], {101: None}
    monkeypatch.setattr(job_runner.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(
        job_runner.time, "sleep", lambda pause: seconds.append(seconds.pop() + pause)
    )
    monkeypatch.setattr(signals, "stop_signal", lambda: number.get(int(seconds[0])))
    assert job_runner._wait_for_signal() is signal.SIGTERM
    assert seconds[0] == pytest.approx(105, abs=0.1)
    seconds[0], number[102] = 100.0, signal.SIGUSR2
    assert job_runner._wait_for_signal() is signal.SIGUSR2
    assert seconds[0] == pytest.approx(102, abs=0.1)


def test_barrier_waits_longer_after_a_success_than_after_a_failure(one_row, pack, monkeypatch):
    waits = []
    monkeypatch.setattr(Peers, "barrier", lambda self, name, seconds: waits.append(seconds) or True)
    one_row.finish("small.LN.0", top1=1.0)
    path = one_row.finish("small.DyT.0", top1=1.0) / "result.json"
    path.write_text("{", encoding="utf-8")
    pack().compute("here", "1")
    assert waits == [SUCCESS_TIMEOUT, FAILURE_TIMEOUT] and waits[0] > waits[1]


def test_a_quarter_of_the_grace_period_is_for_requeueing(one_row, pack, monkeypatch):
    graces = []

    @contextmanager
    def watch_signals(grace, on_overdue):
        graces.append(grace)
        yield

    monkeypatch.setattr(signals, "watch_signals", watch_signals)
    one_row.site("[slurm]\ngrace_seconds = 40\n")
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.finish(name, top1=1.0)
    pack().compute("here", "1")
    assert graces == [30]


def test_hanging_process_requeues_the_job_before_its_last_run(one_row, pack, monkeypatch):
    ended = []
    monkeypatch.setattr(Peers, "barrier", lambda *_: False)  # another process hangs
    monkeypatch.setattr(
        Requeuer, "abort", lambda self, reason, *, requeue: ended.append((reason, requeue))
    )
    one_row.finish("small.LN.0", top1=1.0)
    one_row.finish("small.DyT.0", outcome="diverged")
    pack().compute("here", "1")
    assert ended == [("done", True), ("diverged", False)]
