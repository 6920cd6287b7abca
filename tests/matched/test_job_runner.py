"""A pack of runs as a job computes it, and computes it again when the job is requeued."""

import os

import cloudpickle

from matched.job_runner import _Attempt
from matched.peers import Peers


def test_finished_runs_are_skipped(one_row, pack):
    """All that a requeued pack does with them is to say how they ended."""
    one_row.finish("small.LN.0", top1=1.0)
    one_row.finish("small.DyT.0", outcome="diverged")
    before = one_row.snapshot()
    told = pack().compute("here", "1")
    assert [result.state for result in told.values()] == ["done", "diverged"]
    assert one_row.computed() == []
    assert one_row.snapshot() == before


def test_damaged_runs_are_neither_computed_nor_written_to(one_row, pack):
    for name in ("small.LN.0", "small.DyT.0"):
        path = one_row.finish(name, top1=1.0) / "result.json"
        path.write_text("{", encoding="utf-8")
    before = one_row.snapshot()
    told = pack().compute("here", "1")
    assert all("result.json is not whole JSON" in result.reason for result in told.values())
    assert one_row.computed() == []
    assert one_row.snapshot() == before


def test_a_cut_job_is_queued_again_as_it_was(pack):
    cut = pack()
    again = cut.checkpoint()
    assert again.function is cut and not again.args and not again.kwargs


def test_a_pack_survives_pickling(pack):
    """submitit sends it to the job as a file; signatures must not change on the way."""
    made = pack()
    sent = cloudpickle.loads(cloudpickle.dumps(made))
    assert [run.signature for run in sent.runs] == [run.signature for run in made.runs]
    assert sent.site == made.site


def test_a_pack_sets_its_threads(one_row, pack):
    one_row.finish("small.LN.0", top1=1.0)
    one_row.finish("small.DyT.0", top1=1.0)
    made = pack()
    made.threads = 3
    made.compute("here", "1")
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_job_that_has_to_end_is_queued_again_unless_it_was_at_its_last_run(
    one_row, pack, monkeypatch
):
    ended = []
    monkeypatch.setattr(Peers, "all_over", lambda *_: False)  # another process hangs
    monkeypatch.setattr(
        _Attempt, "_abandon", lambda self, why, requeue: ended.append((why, requeue))
    )
    one_row.finish("small.LN.0", top1=1.0)
    one_row.finish("small.DyT.0", outcome="diverged")
    pack().compute("here", "1")
    assert ended == [("done", True), ("diverged", False)]
