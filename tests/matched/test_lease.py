"""Leases: exclusive ownership of a folder, across processes, hosts and wrong clocks."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from itertools import chain

import pytest

from matched import job_status, lease
from matched.lease import LeaseHeldError, LeaseLostError, acquire

DAY = 86400.0
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.02)


@pytest.fixture
def folder(tmp_path):
    """Return the path of a run directory, which no process owns yet."""
    return tmp_path / "run"


def job(number):
    return job_status.job_record("slurm", str(number), "t1", "")


def take(folder, number, patience=60.0, **more):
    deadline = time.monotonic() + 20

    def pause():
        assert time.monotonic() < deadline, "waited 20 s for a folder that is free"
        time.sleep(0.01)

    return acquire(folder, job(number), patience=patience, pause=pause, **more)


def owned_elsewhere(folder, number=1, touched=None):
    """Write the file of an owner on a host whose processes cannot be seen from here."""
    path = folder / "owners" / "000003.json"
    path.parent.mkdir(parents=True)
    place = {"kernel": "another", "pid": 7, "started": 1}
    path.write_text(
        json.dumps({**job(number).to_json(), "host": "far", "place": place}), encoding="utf-8"
    )
    if touched is not None:
        os.utime(path, (touched, touched))
    return path


class Child:
    """A process that owns ``folder`` until it is killed or told to leave."""

    def __init__(self, folder, number):
        self.ready, self.leave = FORK.Event(), FORK.Event()
        self.process = FORK.Process(target=self._own, args=(folder, number), daemon=True)
        self.process.start()
        assert self.ready.wait(30)

    def _own(self, folder, number):
        owned = take(folder, number)
        self.ready.set()
        self.leave.wait(60)
        owned.release()

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


@pytest.fixture
def child(folder):
    made = Child(folder, 12)
    yield made
    made.process.kill()
    made.process.join()


# --- owners that cannot be seen


def test_patience_is_measured_in_seconds_of_the_observers_clock(folder, monkeypatch):
    """An owner on another host that does not beat is watched for as long, and not longer."""
    owned_elsewhere(folder)
    seconds = [1000.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: seconds[0])

    def pause():
        assert seconds[0] < 1060, "it is watched for longer than its patience"
        seconds[0] += 5

    acquire(folder, job(4), patience=60, pause=pause).release()
    assert seconds == [1060]


def test_other_files_in_the_folder_of_owners_are_ignored(folder):
    path = owned_elsewhere(folder, touched=0)
    for name in (".nfs000000000123", "notes.txt", "z.json"):
        (path.parent / name).touch()
    owned = take(folder, 4)
    assert owned.path.name == "000004.json"
    owned.check_ownership()
    owned.release()


# --- owners on this host


def test_owner_hidden_by_hidepid_is_not_replaced_while_it_beats(folder, child, hidepid):
    hidepid()
    with pytest.raises(LeaseHeldError):
        take(folder, 13, patience=0.3)
    child.kill()
    take(folder, 13, patience=0.3).release()


def test_acquire_refuses_a_second_owner_and_names_the_first(folder, child):
    with pytest.raises(LeaseHeldError) as refused:
        take(folder, 13)
    pid, host = child.process.pid, os.uname().nodename
    assert str(refused.value) == f"{folder} is in use by slurm job 12, process {pid} on host {host}"


def test_released_folder_is_free_at_once(folder, child):
    child.leave.set()
    child.process.join()
    started = time.monotonic()
    owned = take(folder, 13)
    assert time.monotonic() - started < 5
    assert lease.owner(folder).job.job_id == "13"
    owned.release()
    assert lease.owner(folder) is None


def test_killed_owner_is_replaced_at_once(folder, child):
    """No patience is needed if the end of the process can be seen."""
    child.kill()
    take(folder, 13, patience=DAY).release()


def test_zombie_owner_is_replaced(folder, child):
    os.kill(child.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    take(folder, 13, patience=DAY).release()


def test_later_process_with_the_owners_pid_is_another(folder, child):
    path = folder / "owners" / "000001.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["place"]["started"] -= 1
    path.write_text(json.dumps(record), encoding="utf-8")
    take(folder, 13, patience=DAY).release()


def test_acquire_waits_for_an_owner_of_the_same_job(folder, child):
    """Slurm may not have ended one attempt of a job yet when the next one starts."""
    looks = []

    def pause():
        looks.append(1)
        if len(looks) == 3:
            child.leave.set()
        time.sleep(0.01)

    acquire(folder, job(12), pause=pause).release()
    assert len(looks) >= 3


def test_acquire_stops_waiting_when_pause_raises(folder, child):
    def pause():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        acquire(folder, job(12), pause=pause)
    with pytest.raises(LeaseHeldError):
        take(folder, 13)


# --- owners on other hosts


@pytest.mark.parametrize("skew", [0, DAY, -DAY], ids=["equal clocks", "a day fast", "a day slow"])
def test_remote_owner_without_beat_is_dead_after_patience(folder, skew):
    owned_elsewhere(folder, touched=time.time() + skew)
    started = time.monotonic()
    owned = take(folder, 2, patience=0.3)
    assert time.monotonic() - started >= 0.3
    assert [path.name for path in (folder / "owners").iterdir()] == ["000004.json"]
    owned.release()


@pytest.mark.parametrize("step", [1.0, -1.0, -DAY], ids=["on", "back", "back by days"])
@pytest.mark.parametrize("skew", [0, DAY, -DAY], ids=["equal clocks", "a day fast", "a day slow"])
def test_remote_owner_is_alive_while_its_beat_changes(folder, skew, step):
    start = time.time() + skew
    path = owned_elsewhere(folder, touched=start)
    beats = []

    def pause():
        assert not beats, "one beat is enough"
        beats.append(start + step)
        os.utime(path, (beats[-1], beats[-1]))

    with pytest.raises(LeaseHeldError, match="slurm job 1, process 7 on host far"):
        acquire(folder, job(2), patience=DAY, pause=pause)


def test_remote_owner_may_die_while_acquire_waits(folder):
    path = owned_elsewhere(folder)
    beats, deadline = iter(range(20)), time.monotonic() + 20

    def pause():
        if (beat := next(beats, None)) is not None:
            os.utime(path, (1000 + beat, 1000 + beat))
        assert time.monotonic() < deadline, "waited 20 s for a folder that is free"
        time.sleep(0.01)

    acquire(folder, job(1), patience=0.2, pause=pause).release()
    assert next(beats, None) is None, "it beat before it died"


def test_released_remote_owner_needs_no_patience(folder):
    owned_elsewhere(folder, touched=0)
    take(folder, 2, patience=DAY).release()


def test_owner_beats(folder):
    """The owner's file is changed so that its process cannot be seen."""
    owned = take(folder, 1)
    record = json.loads(owned.path.read_text(encoding="utf-8"))
    record["place"]["kernel"] = "another"
    owned.path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(LeaseHeldError):
        take(folder, 2, patience=10)
    owned.release()
    take(folder, 2, patience=10).release()


def test_beat_continues_after_an_error(folder, monkeypatch):
    failures = iter(range(3))

    def utime(*arguments):
        if next(failures, None) is not None:
            raise OSError(5, "Input/output error")
        real(*arguments)

    real = os.utime
    monkeypatch.setattr(os, "utime", utime)
    owned = take(folder, 1)
    first, deadline = owned.path.stat().st_mtime_ns, time.monotonic() + 20
    while owned.path.stat().st_mtime_ns == first:
        assert time.monotonic() < deadline, "no beat in 20 s"
        time.sleep(0.01)
    owned.release()


def test_empty_owner_file_is_replaced_after_patience(folder):
    (folder / "owners").mkdir(parents=True)
    (folder / "owners" / "000001.json").touch()
    started = time.monotonic()
    take(folder, 2, patience=0.3).release()
    assert time.monotonic() - started >= 0.3, "the process may be about to write its record"


# --- lost leases


def test_superseded_owner_raises_lease_lost(folder):
    slept = take(folder, 1)
    record = json.loads(slept.path.read_text(encoding="utf-8"))
    new = folder / "owners" / "000002.json"
    new.write_text(json.dumps({**record, "job": "slurm:2"}), encoding="utf-8")
    with pytest.raises(LeaseLostError, match=f"{folder} was taken over by slurm job 2, process"):
        slept.check_ownership()
    new.write_text("", encoding="utf-8")
    with pytest.raises(LeaseLostError, match="by a process that has not recorded its job yet; th"):
        slept.check_ownership()
    new.write_text(json.dumps({**record, "job": "slurm:2"}), encoding="utf-8")
    slept.release()
    assert lease.owner(folder).job.job_id == "2"


def test_owner_of_a_deleted_folder_raises_lease_lost(folder):
    owned = take(folder, 1)
    owned.check_ownership()
    shutil.rmtree(folder)
    with pytest.raises(LeaseLostError) as lost:
        owned.check_ownership()
    assert str(lost.value) == (
        f"{folder} was taken over by nobody: its files are gone; this process stops"
    )
    time.sleep(0.1)  # some beats
    owned.release()
    assert not folder.exists()


def test_acquire_fails_on_a_full_disk(folder):
    """A limit on file sizes has the same effect as a full disk."""
    (folder / "owners").mkdir(parents=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError):
            take(folder, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((folder / "owners").iterdir()) == []
    take(folder, 2).release()


def test_full_disk_is_named_although_the_folder_was_cleared(folder, monkeypatch):
    (folder / "owners").mkdir(parents=True)

    def full(record):
        shutil.rmtree(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease.json, "dumps", full)
    with pytest.raises(OSError, match="No space left on device"):
        lease._take(folder / "owners", 1, job(1))


def test_release_works_on_a_full_disk(folder):
    owned = take(folder, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        owned.release()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert lease.owner(folder) is None


# --- races


def at_once(processes, work):
    """Return the results of ``work(i, barrier)`` in that many processes."""
    barrier, answers = FORK.Barrier(processes), FORK.SimpleQueue()

    def run(i):
        try:
            answers.put(work(i, barrier))
        except BaseException as error:
            barrier.abort()
            answers.put(error)

    children = [FORK.Process(target=run, args=(i,), daemon=True) for i in range(processes)]
    for each in children:
        each.start()
    told = [answers.get() for _ in children]
    for each in children:
        each.join(60)
    return told


def test_one_of_several_processes_replaces_a_dead_owner(folder):
    gone = subprocess.Popen(["true"])
    gone.wait()
    rounds = 60

    def work(i, barrier):
        won = []
        for n in range(rounds):
            here = folder / str(n)
            if i == 0:
                path = owned_elsewhere(here)
                record = json.loads(path.read_text(encoding="utf-8"))
                record["place"] = {"kernel": lease._kernel(), "pid": gone.pid, "started": 1}
                path.write_text(json.dumps(record), encoding="utf-8")
            barrier.wait(30)
            owned = None
            try:
                owned = take(here, 100 + i)
                owned.check_ownership()
                won.append(n)
            except LeaseHeldError as error:
                assert "slurm job 10" in str(error) or "not recorded its job yet" in str(error)
            barrier.wait(30)
            if owned is not None:
                owned.release()
        return won

    told = at_once(4, work)
    assert all(isinstance(won, list) for won in told), told
    assert sorted(chain(*told)) == list(range(rounds)), "exactly one each time"


def test_never_more_than_one_owner(folder):
    """Each process increments a number slowly enough for two owners to collide."""
    folder.mkdir()
    number = folder / "number"
    number.write_text("0", encoding="utf-8")
    rounds = 15

    def work(i, barrier):
        barrier.wait(30)
        for _ in range(rounds):
            owned = acquire(folder, job(i), wait=True, pause=lambda: None)
            found = int(number.read_text(encoding="utf-8"))
            time.sleep(0.001)
            number.write_text(str(found + 1), encoding="utf-8")
            owned.check_ownership()
            owned.release()
        return "well"

    assert at_once(3, work) == ["well"] * 3
    assert int(number.read_text(encoding="utf-8")) == 3 * rounds
    assert threading.active_count() < 20, "the beat threads end with their leases"
