"""Which jobs are still at work: asked of the operating system and of Slurm, once for all runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from matched import lease
from matched.files import DamagedFileError, write_json
from matched.run_directory import RunDirectory, RunFiles
from matched.status import JobStatus, State

PATIENCE = 60
"""Seconds to wait for a Slurm command, which a busy controller keeps waiting."""
SLURM_SECONDS = 15.0
"""Seconds for which an answer of Slurm is used when jobs are watched."""
SILENCE = 120
"""Seconds after which a run on another host that gives no sign of life is taken to be over."""
OVER = {
    "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL",
    "DEADLINE", "PREEMPTED", "REVOKED",
}  # fmt: skip
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}


def identity(cluster: str, job_id: str, token: str) -> dict[str, str]:
    """What tells a job from all others: its cluster, number, and the submission's token."""
    host = socket.gethostname()
    key = f"slurm job {job_id}" if cluster == "slurm" else f"process {job_id} on {host}"
    return {
        "key": key,
        "cluster": cluster,
        "job_id": job_id,
        "host": host,
        "user": str(os.getuid()),
        "token": token,
    }


def write_job_file(directory: RunDirectory, job: Mapping[str, str], **more: Any) -> None:
    """Write job.json: the run was given to that job."""
    write_json(directory / "job.json", {**job, **more})


def job_statuses(
    directories: Iterable[RunFiles], queue: SlurmQueue | None = None
) -> dict[str, JobStatus]:
    """Return the status of every job that these runs were given to, if they are unfinished.

    Args:
        queue: keeps Slurm's answer from one call to the next; None asks Slurm each time.

    Raises:
        ValueError: where Slurm cannot be asked.
    """
    jobs: dict[str, dict[str, Any]] = {}
    quiet: dict[str, float] = {}
    for directory in directories:
        if (directory / "result.json").exists():
            continue
        with suppress(DamagedFileError):
            if (job := directory.job()) is not None:
                jobs[job["key"]] = job
        owner = directory.owner()
        if owner is not None and "key" in owner:
            jobs.setdefault(owner["key"], owner)
            if owner["cluster"] != "slurm" and owner["host"] != socket.gethostname():
                seconds = lease.quiet_for(directory.path, _now(directory.path))
                quiet[owner["key"]] = min(seconds, quiet.get(owner["key"], seconds))
    slurm = {job["job_id"]: job["user"] for job in jobs.values() if job["cluster"] == "slurm"}
    on_slurm = (queue or SlurmQueue()).statuses(slurm)
    return {
        key: on_slurm.get(job["job_id"], JobStatus(state=None))
        if job["cluster"] == "slurm"
        else _process(job, quiet.get(key))
        for key, job in jobs.items()
    }


class SlurmQueue:
    """Slurm's answer about jobs, kept for ``SLURM_SECONDS``: its controller serves many users."""

    def __init__(self) -> None:
        self._users: Mapping[str, str] = {}
        self._answer: dict[str, JobStatus] = {}
        self._asked = 0.0

    def statuses(self, users: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """Return the status of at least the jobs in ``users``, which maps ids to user numbers.

        Raises:
            ValueError: if Slurm cannot be asked.
        """
        recent = time.monotonic() - self._asked < SLURM_SECONDS
        if not (users.keys() <= self._users.keys() and (recent or not users)):
            self._answer = _slurm(users)
            self._users, self._asked = dict(users), time.monotonic()
        return self._answer


def cancel(jobs: Iterable[Mapping[str, Any]]) -> None:
    """Ask these jobs to stop; they save where they can.

    Raises:
        ValueError: if Slurm refuses, or a process is on another host.
    """
    slurm = []
    for job in jobs:
        if job["cluster"] == "slurm":
            slurm.append(job["job_id"])
        elif job["host"] != socket.gethostname():
            raise ValueError(f"{job['key']} can be cancelled on that host only")
        elif _process(job, None).state is not None:
            os.kill(int(job["job_id"]), signal.SIGTERM)
    if slurm:
        _ask("scancel", *slurm)


def _process(job: Mapping[str, Any], quiet: float | None) -> JobStatus:
    """Whether the process is there; of another host's, whether it has been heard of lately."""
    if job["host"] != socket.gethostname():
        if quiet is None:  # nothing of this job has begun: its submission is all there is to go by
            quiet = _now(Path(job["folder"])) - job["at"]
        heard = quiet < SILENCE
        words = "" if heard else f"nothing heard of {job['host']} for {quiet / 60:.0f} min"
        return JobStatus(state=State.RUNNING if heard else None, words=words)
    stat = Path(f"/proc/{job['job_id']}/stat")
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return JobStatus(state=None)
    zombie = fields[0] == "Z"
    # A later process may have been given the same number: it started after the job was recorded.
    started = _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    over = zombie or started > job["at"] + 60
    return JobStatus(state=None if over else State.RUNNING)


def _now(folder: Path) -> float:
    """The time by the clock that stamps the files of ``folder``, which may be a server's."""
    with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()


@cache
def _boot_time() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise AssertionError("/proc/stat has no btime")


def _slurm(users: Mapping[str, str]) -> dict[str, JobStatus]:
    """Slurm job id (array tasks as "7_3") → what squeue says, or else what sacct remembers.

    ``users`` maps the job ids that are asked for to the number of the user who submitted each.
    squeue answers with and without accounting, and for some minutes of jobs that are over.
    """
    if shutil.which("squeue") is None:
        raise ValueError(
            "some of these runs were submitted to Slurm, but there is no squeue here; "
            "ask from a machine of the cluster"
        )
    of = "--user=" + ",".join(sorted(set(users.values())))
    shown = _ask("squeue", of, "--noheader", "--array", "--states=all", "--format=%F_%K|%A|%T|%r")
    queue = {}
    for line in shown.splitlines():
        task, job_id, state, reason = line.strip().split("|", 3)
        queue[job_id if task.endswith("_N/A") else task] = _seen(state, reason)
    gone = sorted(set(users) - set(queue))
    if gone and shutil.which("sacct") is not None:
        with suppress(ValueError):  # no accounting, no memory
            shown = _ask("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(gone))
            for line in shown.splitlines():
                job_id, _, state = line.partition("|")
                queue[job_id] = _seen(state, "")
    return queue


def _seen(state: str, reason: str) -> JobStatus:
    word = state.split()[0].rstrip("+") if state.strip() else ""  # "CANCELLED by 1000"
    if not word or word in OVER:
        return JobStatus(state=None, words=state)
    words = f"{state} ({reason})" if reason not in ("", "None") else state
    return JobStatus(state=State.QUEUED if word in WAITING else State.RUNNING, words=words)


def _ask(*command: str) -> str:
    """What a Slurm command answers.

    Raises:
        ValueError: if it fails, with its own words.
    """
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{command[0]} gave no answer in {PATIENCE} s; try again later") from None
    if answer.returncode:
        raise ValueError(f"{command[0]} failed: {answer.stderr.strip() or answer.returncode}")
    return answer.stdout
