"""Which jobs are still at work: asked of the operating system and of Slurm, once for all runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matched.files import Damaged, write_json
from matched.rundir import RunDirectory, State

PATIENCE = 60
"""Seconds to wait for squeue, which a busy controller keeps waiting."""


def record(
    directory: RunDirectory, cluster: str, job_id: str, folder: Path, submitted: float
) -> None:
    """Write job.json: at the time ``submitted``, this run was given to that job."""
    key = f"{cluster} job {job_id}" if cluster == "slurm" else f"process {job_id} on {_host()}"
    job = {"key": key, "cluster": cluster, "job_id": job_id, "host": _host(), "at": submitted}
    write_json(directory / "job.json", {**job, "folder": str(folder)})


def live(directories: Iterable[RunDirectory]) -> dict[str, State]:
    """Key of every job named in these directories that is queued or running → which of the two."""
    jobs = {}
    for directory in directories:
        if (directory / "result.json").exists():
            continue
        try:
            job = directory.job()
        except Damaged:
            continue
        if job is not None:
            jobs[job["key"]] = job
    found = {}
    slurm = [job for job in jobs.values() if job["cluster"] == "slurm"]
    queue = _slurm_queue() if slurm else {}
    for key, job in jobs.items():
        state = queue.get(job["job_id"]) if job["cluster"] == "slurm" else _process_state(job)
        if state is not None:
            found[key] = state
    return found


def _host() -> str:
    return socket.gethostname()


def _process_state(job: Mapping[str, Any]) -> State | None:
    """Running if the process is there; another host's processes cannot be seen from here."""
    if job["host"] != _host():
        return State.RUNNING
    stat = Path(f"/proc/{job['job_id']}/stat")
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return None
    zombie = fields[0] == "Z"
    # A later process may have been given the same number: it started after the job was recorded.
    started = _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return None if zombie or started > job["at"] + 60 else State.RUNNING


def _boot_time() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise AssertionError("/proc/stat has no btime")


def _slurm_queue() -> dict[str, State]:
    """Slurm job id (array tasks as "7_3") → state, for this user's jobs in the queue.

    squeue answers with and without accounting; a job that it does not list is over.

    Raises:
        ValueError: where Slurm cannot be asked.
    """
    if shutil.which("squeue") is None:
        raise ValueError(
            "some of these runs were submitted to Slurm, but there is no squeue here; "
            "ask from a machine of the cluster"
        )
    command = ["squeue", "--me", "--noheader", "--array", "--format=%F_%K|%A|%T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise ValueError(f"squeue gave no answer in {PATIENCE} s; try again later") from None
    if answer.returncode:
        raise ValueError(f"squeue failed: {answer.stderr.strip() or answer.returncode}")
    queue = {}
    for line in answer.stdout.splitlines():
        task, job_id, state = line.strip().split("|")
        over = state in ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY")
        if not over:
            waits = state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
            queue[job_id if task.endswith("_N/A") else task] = (
                State.QUEUED if waits else State.RUNNING
            )
    return queue
