"""Context: guarded writes into the run directory."""

import json
from dataclasses import asdict

import pytest

from matched import task
from matched.lease import LeaseLostError
from matched.site import Runs
from matched.task import Context, Outcome


def lost():
    raise LeaseLostError("taken over")


def atomic_write(context):
    with context.atomic_write("weights.pt") as temporary:
        temporary.write_text("content", encoding="utf-8")


WRITES = {
    "owned_path": lambda context: context.owned_path("table.txt").write_text("x", "utf-8"),
    "atomic_write": atomic_write,
    "write_json": lambda context: context.write_json("notes.json", {"a": 1}),
    "write_fingerprint": lambda context: context.write_fingerprint(weights="w", batches=["b"]),
    "write_progress": lambda context: context.write_progress(1, 2),
    "record_environment": lambda context: context.record_environment(scan="torch"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_context_writes_nothing_after_the_lease_is_lost(tmp_path, write):
    context = Context(directory=tmp_path, signature="x", check_ownership=lost)
    with pytest.raises(LeaseLostError, match="taken over"):
        write(context)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_context_checks_ownership_once_and_before_each_write(tmp_path, write):
    files = []

    def check_ownership():
        files.append(list(tmp_path.iterdir()))

    write(Context(directory=tmp_path, signature="x", check_ownership=check_ownership))
    assert files == [[]]
    assert len(list(tmp_path.iterdir())) == 1


def test_context_atomic_write_leaves_no_file_after_an_error(tmp_path):
    context = Context(directory=tmp_path, signature="x")
    with pytest.raises(ValueError), context.atomic_write("weights.pt") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_context_write_json_reaches_subfolders(tmp_path):
    Context(directory=tmp_path, signature="x").write_json("latents/manifest.json", {"a": 1})
    assert json.loads((tmp_path / "latents" / "manifest.json").read_text()) == {"a": 1}


def test_context_write_fingerprint_has_weights_and_batches(tmp_path):
    Context(directory=tmp_path, signature="x").write_fingerprint(weights="w", batches=("a", "b"))
    written = json.loads((tmp_path / "fingerprint.json").read_text())
    assert written == {"weights": "w", "batches": ["a", "b"]}


def test_context_write_progress(tmp_path):
    Context(directory=tmp_path, signature="x").write_progress(3, 8, shown={"loss": 1.0})
    written = json.loads((tmp_path / "progress.json").read_text())
    assert (written["step"], written["steps"], written["shown"]) == (3, 8, {"loss": 1.0})


def test_context_has_the_checkpoint_intervals_of_site_toml_by_default(tmp_path):
    context, runs = Context(directory=tmp_path, signature="x"), Runs()
    assert context.checkpoint_steps == runs.checkpoint_steps == 500
    assert context.checkpoint_minutes == runs.checkpoint_minutes == 10


def test_context_without_more_is_one_process_without_loaders(tmp_path):
    found = asdict(Context(directory=tmp_path, signature="x"))
    assert found.pop("check_ownership")() is None
    assert found == {
        "directory": tmp_path,
        "signature": "x",
        "data": {},
        "needs": {},
        "rank": 0,
        "world_size": 1,
        "local_rank": 0,
        "threads": 1,
        "num_workers": 0,
        "checkpoint_steps": 500,
        "checkpoint_minutes": 10.0,
        "async_checkpoints": False,
        "shard": False,
        "shard_degree": 0,
    }


def test_write_progress_has_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(task.time, "time", lambda: 12.5)
    task.write_progress(tmp_path, 3, 8, shown={"loss": 1.0})
    assert json.loads((tmp_path / "progress.json").read_text()) == {
        "step": 3,
        "steps": 8,
        "at": 12.5,
        "shown": {"loss": 1.0},
    }


def test_context_record_environment_keeps_what_is_recorded(tmp_path):
    context = Context(directory=tmp_path, signature="x")
    context.write_json("environment.json", {"python": "3.13", "scan": "loop"})
    context.record_environment(scan="torch", kernel=None)
    Context(directory=tmp_path, signature="x", rank=1).record_environment(scan="other")
    recorded = json.loads((tmp_path / "environment.json").read_text())
    assert recorded == {"python": "3.13", "scan": "torch", "kernel": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metrics": {"top1": "91 %"}}, "metric top1 of an outcome is '91 %'; expected a number"),
        ({"metrics": {"top1": True}}, "metric top1 of an outcome is True; expected a number"),
        ({"metrics": {}, "details": [1]}, r"has the details \[1\]; expected a dict"),
        ({"metrics": {}, "details": {"data": 3}}, "has data 3 in its details; expected text"),
        ({"metrics": {}, "best": {"top1": "1"}}, "metric top1 of an outcome is '1'; expected"),
        ({"metrics": {}, "details": {"hardware": 3}}, "has hardware 3 in its details; expected"),
        ({"metrics": {}, "details": {"warnings": "a"}}, "expected a list of sentences"),
        ({"metrics": {}, "details": {"warnings": ["a", 1]}}, r"has warnings \['a', 1\] in its"),
    ],
)
def test_outcome_refuses_values_that_tables_cannot_show(values, message):
    with pytest.raises(ValueError, match=message):
        Outcome(steps=1, **values)


def test_outcome_takes_numbers_and_none_and_has_defaults():
    outcome = Outcome(metrics={"top1": None, "loss": 1}, steps=1, details={"warnings": ("a",)})
    assert (outcome.diverged, outcome.best) == (False, {})
    assert Outcome(metrics={}, steps=1).details == {}
