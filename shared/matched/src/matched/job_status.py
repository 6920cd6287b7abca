"""Status of jobs, asked from the operating system and from Slurm once for all runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from matched import lease
from matched.files import DamagedFileError
from matched.run_directory import RunFiles
from matched.status import JobId, JobRecord, JobStatus, State
from matched.surroundings import query_environment

PATIENCE = 60
"""Seconds to wait for a Slurm command: a busy controller answers late."""
SLURM_SECONDS = 15.0
"""Seconds for which an answer of Slurm is used when jobs are watched."""
SLURM_PATIENCE = 600.0
"""Seconds for which a Slurm that does not answer is asked again."""
SILENCE = 120
"""Seconds without a heartbeat after which a run that cannot be seen from here counts as over."""
OVER = {
    "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL",
    "DEADLINE", "PREEMPTED", "REVOKED",
}  # fmt: skip
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}


class NoSlurmError(ValueError):
    """This machine has no commands of Slurm, so asking again is of no use."""


def job_record(cluster: str, job_id: str, token: str, folder: Path | str) -> JobRecord:
    """Return the record of a job that this user gives runs to now, from this host.

    Args:
        cluster: as submitit names it.
        token: names the submission.
        folder: where the output of the job is.
    """
    return JobRecord(
        job=JobId.here(cluster, job_id),
        user=str(os.getuid()),
        token=token,
        folder=str(folder),
        at=time.time(),
    )


def job_statuses(
    directories: Iterable[RunFiles],
    queue: SlurmQueue | None = None,
    *,
    finished: Iterable[RunFiles] = (),
) -> dict[JobId, JobStatus]:
    """Return the status of every job that these runs were given to, if they are unfinished.

    Args:
        queue: keeps Slurm's answer from one call to the next; None asks Slurm each time.
        finished: finished runs of the same plan; the time of their results shows that a job which
            cannot be seen is running. They are read only if there is such a job.

    Raises:
        ValueError: if Slurm cannot be asked.
    """
    jobs: dict[JobId, JobRecord] = {}
    silence: dict[JobId, float] = {}
    just_finished = []
    for directory in directories:
        if (directory / "result.json").exists():
            just_finished.append(directory)
            continue
        with suppress(DamagedFileError):
            if (record := directory.job()) is not None:
                jobs[record.job] = record
        owner = directory.owner()
        if owner is not None:
            jobs.setdefault(owner.job, owner)
            if _is_hidden(owner.job):
                seconds = lease.seconds_since_beat(directory.path, _now(directory.path))
                silence[owner.job] = min(seconds, silence.get(owner.job, seconds))
    if hidden := {job for job in jobs if _is_hidden(job)}:
        # Between two of its runs, a job owns none, but it has just finished one.
        for job, seconds in _seconds_since_results((*just_finished, *finished)):
            if job in hidden:
                silence[job] = min(seconds, silence.get(job, seconds))
    users = {job.job_id: record.user for job, record in jobs.items() if job.on_slurm}
    on_slurm = (queue or SlurmQueue()).statuses(users)
    return {
        job: on_slurm.get(job.job_id, JobStatus(state=None))
        if job.on_slurm
        else _process_status(record, silence.get(job))
        for job, record in jobs.items()
    }


def _is_hidden(job: JobId) -> bool:
    """True for a process that cannot be seen from here; only its heartbeat shows that it runs."""
    return not job.on_slurm and job.is_running is None


def _seconds_since_results(finished: Iterable[RunFiles]) -> Iterator[tuple[JobId, float]]:
    for directory in finished:
        with suppress(DamagedFileError, OSError):
            if (record := directory.job()) is not None:
                at = (directory / "result.json").stat().st_mtime
                yield record.job, _now(directory.path) - at


class SlurmQueue:
    """Cached Slurm job states, at most ``SLURM_SECONDS`` old, to limit the load on slurmctld."""

    def __init__(self) -> None:
        self._users: Mapping[str, str] = {}
        self._answer: dict[str, JobStatus] = {}
        self._asked = 0.0

    def statuses(self, users: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """Return the status of at least these jobs.

        Args:
            users: the number of the user who submitted each job, by job id.

        Raises:
            ValueError: if Slurm cannot be asked.
        """
        if not users:
            return {}
        recent = time.monotonic() - self._asked < SLURM_SECONDS
        if not (recent and users.keys() <= self._users.keys()):
            self._answer = _ask_slurm(users)
            self._users, self._asked = dict(users), time.monotonic()
        return self._answer


def cancel(jobs: Iterable[JobRecord]) -> None:
    """Ask these jobs to stop; they save what they can.

    Raises:
        ValueError: if Slurm refuses, or a process cannot be proved to be the job. Then no process
            has been sent a signal.
    """
    on_slurm: list[JobId] = []
    processes: list[JobId] = []
    for record in jobs:
        (on_slurm if record.job.on_slurm else processes).append(record.job)
    for job in processes:
        if job.is_running is None:
            if job.host != socket.gethostname():
                raise ValueError(f"{job.describe()} can be cancelled on that host only")
            raise ValueError(
                f"{job.describe()} cannot be seen from here (it is another user's, or in another "
                "container), and its id may be another process's; cancel it from where it runs"
            )
        _send(job, 0)  # only checks the permission
    for job in processes:
        _send(job, signal.SIGTERM)
    if on_slurm:
        _run_command("scancel", *(job.job_id for job in on_slurm))


def _send(job: JobId, number: int) -> None:
    """Send a signal to the process of a job if it is running.

    Raises:
        ValueError: if the process is another user's.
    """
    if job.is_running:
        try:
            os.kill(int(job.job_id), number)
        except ProcessLookupError:
            pass  # it has just ended
        except PermissionError:
            raise ValueError(
                f"{job.describe()} is another user's and cannot be cancelled by this one; "
                "ask that user"
            ) from None


def _process_status(record: JobRecord, silence: float | None) -> JobStatus:
    """Return whether a process runs or, if it cannot be seen, has a recent heartbeat.

    Args:
        silence: seconds since its last heartbeat; None if it owns no run yet.
    """
    running = record.job.is_running
    if running is not None:
        return JobStatus(state=State.RUNNING if running else None)
    if silence is None:  # until a run has started, only the time of the submission is known
        silence = _now(Path(record.folder)) - record.at
    return _heartbeat_status(record.job, silence)


def _heartbeat_status(job: JobId, silence: float) -> JobStatus:
    if silence < SILENCE:
        return JobStatus(state=State.RUNNING)
    host = f" from {job.host}" if job.host else ""
    return JobStatus(state=None, detail=f"no heartbeat{host} for {silence / 60:.0f} min")


def owner_status(directory: RunFiles) -> dict[JobId, JobStatus]:
    """Return the status of the job that owns the run, by its heartbeat alone; no owner, no job.

    This is all that is known where Slurm cannot be asked.
    """
    owner = directory.owner()
    if owner is None:
        return {}
    silence = lease.seconds_since_beat(directory.path, _now(directory.path))
    return {owner.job: _heartbeat_status(owner.job, silence)}


def _now(folder: Path) -> float:
    """Return the current time on ``folder``'s file system: on NFS, that of the server's clock."""
    with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def _ask_slurm(users: Mapping[str, str]) -> dict[str, JobStatus]:
    """Return the status of jobs by id (array tasks as "7_3"), from squeue and then from sacct.

    squeue needs no accounting, and remembers jobs that are over for some minutes.

    Args:
        users: the number of the user who submitted each job, by job id.
    """
    if shutil.which("squeue") is None:
        raise NoSlurmError(
            "some of these runs were submitted to Slurm, but there is no squeue here; "
            "ask from a machine of the cluster"
        )
    of = "--user=" + ",".join(sorted(set(users.values())))
    shown = _run_command(
        "squeue", of, "--noheader", "--array", "--states=all", "--format=%F_%K|%A|%T|%r"
    )
    statuses = {}
    for line in shown.splitlines():
        task, job_id, state, reason = line.strip().split("|", 3)
        statuses[job_id if task.endswith("_N/A") else task] = _slurm_status(state, reason)
    missing = sorted(users.keys() - statuses.keys())
    if missing and shutil.which("sacct") is not None:
        with suppress(ValueError):  # the cluster has no accounting
            ids = ",".join(missing)
            shown = _run_command("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ids)
            for line in shown.splitlines():
                job_id, _, state = line.partition("|")
                statuses[job_id] = _slurm_status(state, "")
    return statuses


def _slurm_status(state: str, reason: str) -> JobStatus:
    word = state.split()[0].rstrip("+") if state.strip() else ""  # "CANCELLED by 1000"
    if not word or word in OVER:
        return JobStatus(state=None, detail=state)
    detail = f"{state} ({reason})" if reason not in ("", "None") else state
    return JobStatus(state=State.QUEUED if word in WAITING else State.RUNNING, detail=detail)


def _run_command(*command: str) -> str:
    """Return what a Slurm command prints.

    Raises:
        ValueError: if it fails, with its own message, or does not answer.
    """
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=query_environment(),
        )
    except OSError as error:
        raise ValueError(
            f"{command[0]} cannot be run ({error.strerror}); "
            "run this where Slurm's commands are on PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{command[0]} gave no answer in {PATIENCE} s; try again later") from None
    if answer.returncode:
        raise ValueError(f"{command[0]} failed: {answer.stderr.strip() or answer.returncode}")
    return answer.stdout
