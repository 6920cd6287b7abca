"""Ends of runs: the content of results, refusals, answers to other ranks, and logs."""

import logging
import re
import time
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from matched import Outcome, lease, run_execution, site
from matched.files import DamagedFileError
from matched.peers import PeerLostError
from matched.run_directory import RunDirectory
from matched.status import ExecutionResult, Failure, FailureKind, RunStatus, State

FIRST = "small.LN.0"


def test_result_has_all_parts_of_the_outcome(one_row, pack, monkeypatch):
    """The task takes 5.04 s by this clock."""
    clock = [1000.0]
    monkeypatch.setattr(
        run_execution,
        "time",
        SimpleNamespace(time=lambda: clock[0], monotonic=time.monotonic, sleep=time.sleep),
    )

    def train(context, config):
        clock[0] += 5.04
        return Outcome(
            metrics={"top1": 80.0},
            steps=7,
            best={"top1": 81.0, "step": 5},
            details={"data": "a folder"},
            diverged=config.norm == "DyT",
        )

    monkeypatch.setattr(run_execution, "_resolve", lambda task: train)
    pack().compute("here", "1")
    directory = one_row.directory(FIRST)
    expected = {
        "signature": directory.run.signature,
        "outcome": "done",
        "metrics": {"top1": 80.0},
        "best": {"top1": 81.0, "step": 5},
        "steps": 7,
        "details": {"data": "a folder"},
        "hardware": "a CPU",
        "seconds_of_last_attempt": 5.0,
        "finished_at": 1005.04,
    }
    assert directory.result() == expected
    assert lease.owner(directory.path) is None, "released"
    assert one_row.directory("small.DyT.0").result()["outcome"] == "diverged"


@pytest.mark.parametrize(
    ("error", "state", "recorded"),
    [
        (lease.LeaseHeldError("in use"), State.RUNNING, False),
        (DamagedFileError("cut off"), State.DAMAGED, False),
        (OSError("disk full"), State.FAILED, True),
    ],
)
def test_refusal_is_a_failure_if_the_folder_is_unusable(one_row, error, state, recorded):
    directory = one_row.directory(FIRST)
    directory.prepare()
    job = one_row.job("here", "1")
    result = run_execution._refusal(directory, job, error)
    assert (result.state, str(error) in result.reason) == (state, True)
    failure = Failure(reason=result.reason, token=job.token) if recorded else None
    assert directory.failure() == failure


def test_claim_that_fails_after_the_lease_was_acquired_releases_it(one_row, monkeypatch):
    def full(folder):
        raise OSError("disk full")

    monkeypatch.setattr(run_execution, "_delete_temporary_files", full)
    directory = one_row.directory(FIRST)
    owned, answer = run_execution._claim(directory, one_row.job("here", "1"))
    assert (owned, answer.state) == (None, State.FAILED)
    assert lease.owner(directory.path) is None


def test_task_gets_the_folders_of_its_data_and_needs(one_row, pack, monkeypatch):
    one_row.recipe(
        'START = Run(task="tiny:train", config=Config(model="start"))\n'
        'SMALL = Run(task="tiny:train", config=Config(data=("d",)), needs={"begin": START})\n'
        "TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=SMALL),))"
    )
    start = one_row.finish("start.LN.0", top1=1.0)
    asked, contexts = [], []

    def resolve_paths(names, paths, file, **options):
        asked.append((names, paths, file))
        return {"d": one_row.root / "data"}

    def train(*given):
        contexts.append(given)
        return Outcome(metrics={}, steps=1)

    monkeypatch.setattr(run_execution.data, "resolve_paths", resolve_paths)
    monkeypatch.setattr(run_execution, "_resolve", lambda task: train)
    job = pack()
    run = job.runs[-1]
    job.runs, job.resources = [run], job.resources[:1]
    job.compute("here", "1")
    ((context, config),) = contexts
    assert config == run.config and context.data == {"d": one_row.root / "data"}
    assert context.needs == {"begin": start.path}
    assert asked == [(("d",), {}, one_row.root / "site.toml")]


@pytest.fixture
def second(one_row, monkeypatch):
    """Return a function that executes a run as the second of two processes."""
    peers = SimpleNamespace(rank=1, world_size=2, broadcast=lambda topic, text: "null")

    def execute(task):
        monkeypatch.setattr(run_execution, "_resolve", lambda name: task)
        directory = one_row.directory(FIRST)
        settings = site.read(one_row.root / site.FILE)
        job = one_row.job("here", "1")
        return run_execution.execute(
            directory.run, settings, job, peers, threads=1, num_workers=0
        ), [path.name for path in directory.path.iterdir()]

    return execute


def test_only_rank_0_writes_files_of_a_run(second):
    ranks = []

    def train(context, config):
        ranks.append((context.rank, context.world_size))
        context.check_ownership()
        return Outcome(metrics={}, steps=1, diverged=True)

    result, files = second(train)
    assert (result, ranks, files) == (ExecutionResult(state=State.DIVERGED), [(1, 2)], [])


def test_lost_peer_is_no_failure_of_the_run(second, one_row):
    def train(context, config):
        raise dist.DistNetworkError("connection reset")

    with pytest.raises(PeerLostError, match="connection reset"):
        second(train)
    assert one_row.directory(FIRST).failure() is None


def test_failure_on_a_full_disk_is_returned(one_row, pack, monkeypatch):
    def full(self, failure):
        raise OSError("disk full")

    one_row.trouble("raise", FIRST)
    monkeypatch.setattr(RunDirectory, "write_failure", full)
    told = pack().compute("here", "1")
    result = told[one_row.directory(FIRST).run.signature]
    assert (result.state, "told to fail" in result.reason) == (State.FAILED, True)
    assert [one.state for one in told.values()] == [State.FAILED, State.DONE]


@pytest.mark.parametrize(
    "answer",
    [None, ExecutionResult(state=State.DONE), ExecutionResult(state=State.FAILED, reason="why")],
)
def test_answer_of_rank_0_reaches_all_ranks(answer):
    sent = {}
    rank0 = SimpleNamespace(broadcast=lambda topic, text: sent.setdefault(topic, text))
    rank1 = SimpleNamespace(broadcast=lambda topic, text: sent[topic])
    assert run_execution._broadcast(rank0, "claim/1", answer) == answer
    assert run_execution._broadcast(rank1, "claim/1", None) == answer


def test_blocked_run_names_the_root_of_a_chain(one_row):
    need = one_row.directory(FIRST).run
    failed = RunStatus(state=State.FAILED, failure=Failure(reason="no memory"))
    blocked = run_execution._blocked_by("begin", need, failed)
    assert blocked == Failure(
        kind=FailureKind.BLOCKED,
        reason=f"blocked by tiny:train {need.signature} (begin), which is failed: no memory",
        root_run=need.signature,
    )
    chained = RunStatus(state=State.FAILED, failure=blocked)
    assert (
        run_execution._blocked_by("next", one_row.directory("small.DyT.0").run, chained) == blocked
    )
    new = run_execution._blocked_by("begin", need, RunStatus(state=State.NEW))
    assert new.reason == f"blocked by tiny:train {need.signature} (begin), which is new"


def test_log_of_a_block_is_appended_with_times(tmp_path):
    log, path = logging.getLogger("matched"), tmp_path / "log.txt"
    before = list(log.handlers)
    log.setLevel(logging.WARNING)
    for word in ("first", "second"):
        with run_execution._logging_to(path):
            assert log.level == logging.INFO
            handler = log.handlers[-1]
            assert handler.encoding == "utf-8", "of every locale"
            log.info("%s attempt: α", word)
            log.debug("not recorded")
        log.info("after the attempt")
        assert handler.stream is None, "closed"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"[\d-]+ [\d:,]+ ", "TIME ", line) for line in lines] == [
        "TIME INFO first attempt: α",
        "TIME INFO second attempt: α",
    ]
    with run_execution._logging_to(None):  # of other ranks than 0
        log.info("printed by the job")
    assert log.handlers == before and len(path.read_text().splitlines()) == 2
