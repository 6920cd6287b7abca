"""Owners of a lease: their numbered files, their description, and how they are watched."""

import json
import os
import socket
import subprocess

import pytest

from matched import lease, process_identity
from matched.lease import LeaseHeldError, Owner, acquire
from matched.status import JobId

from .test_lease import folder, job, owned_elsewhere

__all__ = ["folder"]  # a fixture


def test_owner_without_a_record_is_unknown(folder):
    assert lease.owner(folder) is None
    assert lease.seconds_since_beat(folder, 1060.0) == float("inf")
    path = owned_elsewhere(folder, touched=1000)
    assert lease.owner(folder) == job_record_of(path)
    assert lease.seconds_since_beat(folder, 1060.0) == 60
    path.write_text("", encoding="utf-8")
    assert lease.owner(folder) is None
    path.unlink()
    assert lease.owner(folder) is None
    assert lease.owner(path.parent / "owners") is None
    (path.parent / "owners").touch()
    assert lease.owner(path.parent) is None, "a file has no owners"


def test_owner_replaced_while_it_is_read_is_unknown(folder, monkeypatch):
    """Its file was listed, and deleted by the next owner."""
    monkeypatch.setattr(lease, "_newest", lambda owners: owners / "000003.json")
    assert lease.owner(folder) is None
    assert lease.seconds_since_beat(folder, 1060.0) == 1060


def job_record_of(path):
    return lease.JobRecord.from_json(json.loads(path.read_text(encoding="utf-8")))


def test_take_writes_the_owner_and_deletes_lower_numbers(folder):
    owners = owned_elsewhere(folder).parent
    path = lease._take(owners, 4, job(9))
    assert sorted(owners.iterdir()) == [path] == [owners / "000004.json"]
    host = socket.gethostname()
    assert json.loads(path.read_text(encoding="utf-8")) == {
        **job_record_of(path).to_json(),
        "host": host,
        "place": {
            "kernel": f"{host} {process_identity.namespace()}",
            "pid": os.getpid(),
            "started": process_identity.start_time(os.getpid()),
        },
    }
    assert job_record_of(path).job == JobId(cluster="slurm", job_id="9")


def test_take_of_a_lower_or_taken_number_leaves_no_file(folder):
    path = owned_elsewhere(folder)
    before = path.read_text(encoding="utf-8")
    assert lease._take(path.parent, 3, job(9)) is None
    assert lease._take(path.parent, 2, job(9)) is None, "it was free again"
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text(encoding="utf-8") == before


def test_owner_is_described_by_its_job_and_process():
    place = {"kernel": "k", "pid": 7, "started": 1}
    process = JobId(cluster="local", host="far", job_id="7")
    for record, description in (
        (job(12), "slurm job 12, process 7 on host far"),
        (job_of(process), "process 7 on host far"),
        (job_of(JobId(cluster="local", host="near", job_id="8")),
         "process 8 on host near, process 7 on host far"),
    ):  # fmt: skip
        assert Owner(job=record, host="far", place=place).describe() == description


def job_of(job_id):
    return lease.JobRecord(job=job_id, user="0", token="t1", folder="", at=0.0)


def test_alive_is_known_on_the_same_kernel_only(monkeypatch):
    here, ended = lease._place(os.getpid()), subprocess.Popen(["true"])
    ended.wait()
    assert lease.alive(here) is True
    assert lease.alive({**here, "pid": ended.pid}) is False
    assert lease.alive({**here, "started": here["started"] - 1}) is False
    for unknown in ({"kernel": "another"}, {"kernel": ""}, {"started": None}):
        assert lease.alive({**here, **unknown}) is None
    monkeypatch.setattr(process_identity, "namespace", lambda: "")
    assert lease._kernel() == "" and lease.alive({**here, "kernel": ""}) is None


def test_acquire_polls_every_half_second_for_a_minute_by_default(folder, monkeypatch):
    owned_elsewhere(folder)
    seconds, naps = [1000.0], []

    def sleep(pause):
        naps.append(pause)
        seconds[0] += pause

    monkeypatch.setattr(lease.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(lease.time, "sleep", sleep)
    acquire(folder, job(4)).release()
    assert naps == [0.5] * 120


def test_owner_that_records_its_job_meanwhile_is_alive(folder):
    """Its file may keep its time, which some file systems count in seconds."""
    path = owned_elsewhere(folder, touched=1000)
    record = path.read_text(encoding="utf-8")
    path.write_text("", encoding="utf-8")
    os.utime(path, (1000, 1000))

    def pause():
        path.write_text(record, encoding="utf-8")
        os.utime(path, (1000, 1000))

    with pytest.raises(LeaseHeldError, match=f"^{folder} is in use by slurm job 1, process 7 on"):
        acquire(folder, job(2), pause=pause)
