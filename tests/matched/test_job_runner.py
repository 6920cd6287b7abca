"""JobRunner: finished and damaged runs, pickling, and the end of a job with a hanging process."""

import os
from contextlib import contextmanager

import cloudpickle

from matched import signals
from matched.job_runner import FAILURE_TIMEOUT, SUCCESS_TIMEOUT
from matched.peers import Peers
from matched.requeue import Requeuer


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


def test_job_runner_sets_omp_num_threads(one_row, pack):
    one_row.finish("small.LN.0", top1=1.0)
    one_row.finish("small.DyT.0", top1=1.0)
    runner = pack()
    runner.threads = 3
    runner.compute("here", "1")
    assert os.environ["OMP_NUM_THREADS"] == "3"


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
