"""Who may compute a run, what is cleared away before, and what becomes of what it needs."""

import os
import threading
import time

import pytest

from matched import lease

WHY = "the tiny task was told to fail [/here] at [data]"
FIRST = "small.LN.0"
WITH_NEED = """
START = Run(task="tiny:train", config=Config(model="start"))
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})
LARGE = Run(task="tiny:train", config=Config(model="large"), needs={"begin": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL, large=LARGE),))
"""


def words(told, project, name):
    """What is said of one run of a job."""
    return str(told[project.directory(name).run.signature])


def states(project):
    return {_name(planned): str(planned.status.state) for planned in project.plan().runs}


def _name(planned):
    return f"{planned.run.config.model}.{planned.run.config.norm}.{planned.run.config.seed}"


# --- what killed processes leave


def test_what_killed_processes_had_not_finished_writing_is_deleted(one_row, pack):
    directory = one_row.directory(FIRST)
    directory.prepare()
    (directory / ".result.json.4711.tmp").write_text("{", encoding="utf-8")
    (directory / ".job.json.4712.tmp").write_text("{", encoding="utf-8")
    (directory / "checkpoints" / ".step_3.4711.tmp").mkdir()
    (directory / "checkpoints" / ".step_3.4711.tmp" / "weights").touch()
    (directory / "checkpoints" / ".step_4.4711.tmp").touch()
    (directory / "checkpoints" / "step_2").touch()
    (directory / "notes.tmp").touch()
    pack().compute("here", "1")
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["step_2"]
    (left,) = directory.path.glob(".*")
    assert left.name == ".job.json.4712.tmp", "a submission may be writing it"
    assert (directory / "notes.tmp").exists(), "what others wrote is theirs"


# --- failures


def test_a_run_that_failed_is_not_computed_again_when_its_job_is_queued_again(one_row, pack):
    one_row.trouble("raise", FIRST)
    first = pack().compute("here", "1")
    one_row.no_trouble()
    again = pack().compute("here", "1")
    assert words(first, one_row, FIRST) == words(again, one_row, FIRST) == WHY
    assert one_row.computed() == [FIRST, "small.DyT.0"]
    assert states(one_row)[FIRST] == "failed"


def test_a_new_submission_computes_it_again(one_row, pack):
    one_row.trouble("raise", FIRST)
    pack("t1").compute("here", "1")
    one_row.no_trouble()
    pack("t2").compute("here", "1")
    assert one_row.computed() == [FIRST, "small.DyT.0", FIRST]
    assert set(states(one_row).values()) == {"done"}
    assert not (one_row.directory(FIRST) / "failure.json").exists()


def test_a_run_that_fails_again_says_why_it_failed_this_time(one_row, pack):
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
def test_a_directory_that_cannot_be_written_to_fails_alone_in_one_line(
    one_row, pack, read_only, make
):
    make(one_row, read_only)
    told = pack().compute("here", "1")
    line = words(told, one_row, FIRST)
    assert str(one_row.directory(FIRST).path) in line and "\n" not in line
    assert words(told, one_row, "small.DyT.0") == "done"
    assert one_row.computed() == ["small.DyT.0"]


def test_a_log_that_cannot_be_written_keeps_no_run_from_its_result(one_row, pack):
    directory = one_row.directory(FIRST)
    (directory / "log.txt").mkdir(parents=True)
    told = pack().compute("here", "1")
    assert [result.state for result in told.values()] == ["done", "done"]


# --- owners


def test_a_run_that_another_process_is_computing_is_left_alone(one_row, pack):
    job = pack()
    directory = one_row.begun(FIRST, "slurm", "7")
    before = {path: path.read_bytes() for path in directory.path.rglob("*.json")}
    told = job.compute("here", "1")
    line = words(told, one_row, FIRST)
    assert line.startswith(f"{directory.path} is in use by slurm job 7, process {os.getpid()} on")
    assert {path: path.read_bytes() for path in directory.path.rglob("*.json")} == before
    assert not (directory / "failure.json").exists(), "it has not failed"
    assert one_row.computed() == ["small.DyT.0"]


def test_a_result_that_came_while_waiting_is_taken(one_row, pack, monkeypatch):
    """The first start of a job finishes its run while the next one waits for it to end."""
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


def test_who_was_taken_over_writes_nothing_beside_the_new_owner(one_row, pack):
    one_row.trouble("is taken over", FIRST)
    told = pack().compute("here", "1")
    directory = one_row.directory(FIRST)
    line = words(told, one_row, FIRST)
    assert line == f"{directory.path} was taken over by process 7 on host far; this process stops"
    assert not (directory / "result.json").exists()
    assert not (directory / "failure.json").exists()
    assert lease.owner(directory.path).job.host == "far"
    assert words(told, one_row, "small.DyT.0") == "done"


# --- needs


@pytest.fixture
def needy(one_row):
    one_row.recipe(WITH_NEED)
    return one_row


def test_what_another_process_is_computing_is_waited_for(needy):
    needy.trouble("wait", "start.LN.0")
    first = needy.start("run", "table1", "--row", "small", "--arm", "LN")
    needy.wait_for((needy.root / "started").exists, first)
    second = needy.start("submit", "table1", "--cluster", "debug")
    large = needy.directory("large.LN.0")
    needy.wait_for((large / "progress.json").exists, first, second)
    time.sleep(0.3)  # time to fail, for a run that does not wait
    assert states(needy)["large.LN.0"] == "running"
    (needy.root / "go").touch()
    for process in (first, second):
        process.communicate(timeout=30)
    assert set(states(needy).values()) == {"done"}
    assert needy.computed().count("start.LN.0") == 1


def test_a_need_that_failed_says_why_and_retry_heals_both(needy):
    needy.trouble("raise", "start.LN.0")
    needy.compute("submit", "table1", "--cluster", "debug", code=1)
    (start,) = (i.run for i in needy.plan().runs if _name(i) == "start.LN.0")
    blocked = f"blocked by tiny:train {start.signature} (begin), which is failed: {WHY}"
    for name in ("small.LN.0", "large.LN.0"):
        assert needy.json(needy.directory(name) / "failure.json")["reason"] == blocked
    needy.no_trouble()
    assert "3 of 6 runs" in needy.compute("retry", "table1", "--cluster", "debug")
    assert set(states(needy).values()) == {"done"}


@pytest.mark.parametrize("reason", ["not writable", "at work elsewhere until it was killed"])
def test_a_need_that_this_job_could_not_begin_blocks_what_needs_it(needy, pack, reason):
    """It stays given to this very job, which would wait for itself."""
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
