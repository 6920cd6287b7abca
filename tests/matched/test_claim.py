"""Claims of run directories: ownership, cleaning up, repeated failures, waiting for needs."""

import os
import threading
import time

import pytest

from matched import Context, Outcome, Resources, lease, run_execution
from matched.status import Failure

WHY = "the tiny task was told to fail [/here] at [data]"
FIRST = "small.LN.0"
WITH_NEED = """
START = Run(task="tiny:train", config=Config(model="start"))
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})
LARGE = Run(task="tiny:train", config=Config(model="large"), needs={"begin": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL, large=LARGE),))
"""


def words(told, project, name):
    """Return the state, or the reason for it, that a job returned for one run."""
    return str(told[project.directory(name).run.signature])


def states(project):
    return {_name(planned): str(planned.status.state) for planned in project.plan().runs}


def _name(planned):
    return f"{planned.run.config.model}.{planned.run.config.norm}.{planned.run.config.seed}"


# --- files of killed processes


def test_execute_deletes_temporary_files_of_killed_processes(one_row, pack):
    directory = one_row.directory(FIRST)
    directory.prepare()
    (directory / ".result.json.4711.tmp").write_text("{", encoding="utf-8")
    (directory / ".job.json.4712.tmp").write_text("{", encoding="utf-8")
    (directory / "checkpoints" / ".step_3.4711.tmp").mkdir()
    (directory / "checkpoints" / ".step_3.4711.tmp" / "weights").touch()
    (directory / "checkpoints" / ".step_4.4711.tmp").touch()
    (directory / "checkpoints" / "step_2").touch()
    (directory / "genome").mkdir()
    (directory / "genome" / ".genome.fa.4711.tmp").touch()
    (directory / ".tasks.4711.tmp" / "train").mkdir(parents=True)
    (directory / ".tasks.4711.tmp" / "train" / ".0.txt.4711.tmp").touch()
    (directory / "notes.tmp").touch()
    pack().compute("here", "1")
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["step_2"]
    assert not list((directory / "genome").iterdir())
    (left,) = directory.path.glob(".*")
    assert left.name == ".job.json.4712.tmp", "a submission may be writing it"
    assert (directory / "notes.tmp").exists(), "files of other programs are kept"


# --- failures


def test_requeued_job_does_not_repeat_a_failed_run(one_row, pack):
    one_row.trouble("raise", FIRST)
    first = pack().compute("here", "1")
    one_row.no_trouble()
    again = pack().compute("here", "1")
    assert words(first, one_row, FIRST) == words(again, one_row, FIRST) == WHY
    assert one_row.computed() == [FIRST, "small.DyT.0"]
    assert states(one_row)[FIRST] == "failed"


def test_new_submission_repeats_a_failed_run(one_row, pack):
    one_row.trouble("raise", FIRST)
    pack("t1").compute("here", "1")
    one_row.no_trouble()
    pack("t2").compute("here", "1")
    assert one_row.computed() == [FIRST, "small.DyT.0", FIRST]
    assert set(states(one_row).values()) == {"done"}
    assert not (one_row.directory(FIRST) / "failure.json").exists()


def test_failure_is_replaced_by_the_next_submission(one_row, pack):
    one_row.trouble("raise", FIRST)
    pack("t1").compute("here", "1")
    one_row.trouble("no outcome", FIRST)
    pack("t2").compute("here", "1")
    failure = one_row.json(one_row.directory(FIRST) / "failure.json")
    assert failure["token"] == "t2" and failure["reason"].startswith("AttributeError")


def unwritable_file(project, read_only):
    path = project.directory(FIRST).path
    path.parent.mkdir(parents=True)
    path.touch()


def unwritable_folder(project, read_only):
    directory = project.directory(FIRST)
    directory.prepare()
    read_only(directory.path)


@pytest.mark.parametrize("make", [unwritable_file, unwritable_folder])
def test_unwritable_run_directory_fails_one_run(one_row, pack, read_only, make):
    make(one_row, read_only)
    told = pack().compute("here", "1")
    line = words(told, one_row, FIRST)
    assert str(one_row.directory(FIRST).path) in line and "\n" not in line
    assert words(told, one_row, "small.DyT.0") == "done"
    assert one_row.computed() == ["small.DyT.0"]


def test_unwritable_log_does_not_stop_a_run(one_row, pack):
    directory = one_row.directory(FIRST)
    (directory / "log.txt").mkdir(parents=True)
    told = pack().compute("here", "1")
    assert [result.state for result in told.values()] == ["done", "done"]


def test_log_of_a_run_has_only_its_own_lines(one_row, pack):
    pack().compute("here", "1")
    one, other = (one_row.directory(name) for name in (FIRST, "small.DyT.0"))
    for directory, foreign in ((one, other), (other, one)):
        log = (directory / "log.txt").read_text(encoding="utf-8")
        assert f"tiny:train {directory.run.signature} starts" in log
        assert f"{directory.run.signature} done: " in log
        assert foreign.run.signature not in log


# --- owners


def test_run_owned_by_another_process_is_left_alone(one_row, pack):
    job = pack()
    directory = one_row.begun(FIRST, "slurm", "7")
    before = {path: path.read_bytes() for path in directory.path.rglob("*.json")}
    told = job.compute("here", "1")
    line = words(told, one_row, FIRST)
    assert line.startswith(f"{directory.path} is in use by slurm job 7, process {os.getpid()} on")
    assert {path: path.read_bytes() for path in directory.path.rglob("*.json")} == before
    assert not (directory / "failure.json").exists(), "it has not failed"
    assert one_row.computed() == ["small.DyT.0"]


def test_result_written_while_acquire_waits_is_returned(one_row, pack, monkeypatch):
    """The first attempt of a job finishes its run while the second attempt waits."""
    directory = one_row.directory(FIRST)
    directory.prepare()
    owned = lease.acquire(directory.path, one_row.job("here", "1"))
    waits = []

    def acquire(*arguments, pause, **more):
        def finish():
            waits.append(1)
            one_row.finish(FIRST, top1=1.0)
            owned.release()

        return real(*arguments, pause=finish, **more)

    real = lease.acquire
    monkeypatch.setattr(lease, "acquire", acquire)
    assert words(pack().compute("here", "1"), one_row, FIRST) == "done"
    assert waits == [1] and one_row.computed() == ["small.DyT.0"]
    assert lease.owner(directory.path) is None


def test_process_that_lost_its_lease_writes_nothing(one_row, pack):
    one_row.trouble("is taken over", FIRST)
    told = pack().compute("here", "1")
    directory = one_row.directory(FIRST)
    line = words(told, one_row, FIRST)
    assert line == f"{directory.path} was taken over by process 7 on host far; this process stops"
    assert not (directory / "result.json").exists()
    assert not (directory / "failure.json").exists()
    assert lease.owner(directory.path).job.host == "far"
    assert words(told, one_row, "small.DyT.0") == "done"


# --- the context of the task


def test_context_has_the_sites_intervals_and_the_local_rank(one_row, pack, monkeypatch):
    runs = "checkpoint_steps = 7\ncheckpoint_minutes = 3\nasync_checkpoints = true"
    one_row.site(f"[runs]\n{runs}\n")
    monkeypatch.setenv("LOCAL_RANK", "2")
    contexts = []

    def train(context, config):
        contexts.append(context)
        return Outcome(metrics={}, steps=1)

    monkeypatch.setattr(run_execution, "_resolve", lambda task: train)
    job = pack()
    job.threads = 5
    job.resources = [Resources(gpus=2, cpus=4, minutes=1, shard=True, shard_degree=2)] * 2
    job.compute("here", "1")
    one, other = contexts
    directory = one_row.directory(FIRST)
    assert one == Context(
        directory=directory.path,
        signature=directory.run.signature,
        data={},
        needs={},
        rank=0,
        world_size=1,
        local_rank=2,
        threads=5,
        num_workers=3,
        checkpoint_steps=7,
        checkpoint_minutes=3,
        async_checkpoints=True,
        shard=True,
        shard_degree=2,
        check_ownership=one.check_ownership,
    )
    assert other.signature == one_row.directory("small.DyT.0").run.signature


# --- needs


@pytest.fixture
def needy(one_row):
    one_row.recipe(WITH_NEED)
    return one_row


def test_run_waits_for_a_need_of_another_process(needy):
    needy.trouble("wait", "start.LN.0")
    first = needy.start("run", "table1", "--row", "small", "--arm", "LN")
    needy.wait_for((needy.root / "started").exists, first)
    second = needy.start("submit", "table1", "--cluster", "debug")
    large = needy.directory("large.LN.0")
    needy.wait_for((large / "progress.json").exists, first, second)
    time.sleep(0.3)  # enough for a run that does not wait to fail
    assert states(needy)["large.LN.0"] == "running"
    (needy.root / "go").touch()
    for process in (first, second):
        process.communicate(timeout=30)
    assert set(states(needy).values()) == {"done"}
    assert needy.computed().count("start.LN.0") == 1


def test_retry_repeats_a_failed_need_and_blocked_runs(needy):
    needy.trouble("raise", "start.LN.0")
    needy.compute("submit", "table1", "--cluster", "debug", code=1)
    (start,) = (i.run for i in needy.plan().runs if _name(i) == "start.LN.0")
    blocked = f"blocked by tiny:train {start.signature} (begin), which is failed: {WHY}"
    for name in ("small.LN.0", "large.LN.0"):
        assert needy.json(needy.directory(name) / "failure.json")["reason"] == blocked
    needy.no_trouble()
    assert "3 of 6 runs" in needy.compute("retry", "table1", "--cluster", "debug")
    assert set(states(needy).values()) == {"done"}


@pytest.mark.parametrize("state", ["new", "damaged", "failed"])
def test_run_does_not_start_from_an_unfinished_need(needy, pack, state):
    """As after the need's directory was moved, or its result truncated, while the job waited."""
    start = next(i for i in needy.plan().runs if _name(i) == "start.LN.0")
    start.directory.prepare()
    if state == "damaged":
        needy.finish("start.LN.0", top1=1.0)
        (start.directory / "result.json").write_text("{", encoding="utf-8")
    if state == "failed":
        start.directory.write_failure(Failure(reason="why"))
    job = pack()
    job.runs, job.resources = [needy.directory(FIRST).run], job.resources[:1]
    told = job.compute("here", "1")
    expected = f"blocked by tiny:train {start.run.signature} (begin), which is {state}"
    assert words(told, needy, FIRST).startswith(expected)
    assert needy.computed() == []
    failure = needy.directory(FIRST).failure()
    assert failure.reason.startswith(expected) and failure.root_run == start.run.signature


def test_run_starts_from_a_diverged_need(needy, pack):
    needy.finish("start.LN.0", outcome="diverged")
    job = pack()
    job.runs, job.resources = [needy.directory(FIRST).run], job.resources[:1]
    assert words(job.compute("here", "1"), needy, FIRST) == "done"


@pytest.mark.parametrize("reason", ["not writable", "owned by another job until it was killed"])
def test_need_that_this_job_could_not_start_blocks(needy, pack, reason):
    """The need is still assigned to this very job, which must not wait for itself."""
    job = needy.job("here", str(os.getpid()))
    for planned in needy.plan().runs:
        planned.directory.prepare()
        planned.directory.write_job(job)
        if _name(planned) == "start.LN.0":
            start = planned
    if reason == "not writable":
        (start.directory / "owners").touch()
    else:
        other = lease.acquire(start.directory.path, needy.job("here", "999999999"))
        needy.leases.append(other)
    told = []
    run = threading.Thread(target=lambda: told.append(pack().compute("here", str(os.getpid()))))
    run.daemon = True
    run.start()
    run.join(20)
    assert told, "it waits for itself"
    assert words(told[0], needy, "small.LN.0").startswith(
        f"blocked by tiny:train {start.run.signature} (begin), which "
    )
    assert words(told[0], needy, "small.DyT.0") == "done"
