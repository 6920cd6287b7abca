"""Execution of one run in a job: ownership of its directory, its task, its result or failure."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matched import data, job_status, lease, provenance, signals
from matched.errors import one_line
from matched.files import DamagedFileError, write_json
from matched.job_status import NoSlurmError, SlurmQueue
from matched.lease import Lease
from matched.peers import PeerLostError, Peers, is_connection_error
from matched.run import Run
from matched.run_directory import RunDirectory
from matched.signals import Interrupted
from matched.site import Site
from matched.status import (
    ExecutionResult,
    Failure,
    FailureKind,
    JobId,
    JobRecord,
    JobStatus,
    RunStatus,
    State,
)
from matched.task import Context, Outcome, write_progress

log = logging.getLogger("matched")


class BlockedError(ValueError):
    """A run cannot start because one that it needs has no result."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def execute(
    run: Run,
    site: Site,
    job: JobRecord,
    peers: Peers,
    *,
    threads: int,
    num_workers: int,
    shard: bool = False,
    shard_degree: int = 0,
    code: Mapping[str, Any] | None = None,
) -> ExecutionResult:
    """Compute one run unless it has a result; a failure is recorded and returned, not raised.

    Only rank 0 reads and owns the run directory; the other ranks follow its decision.

    Args:
        job: recorded as the owner of the run directory during execution; see
            ``job_status.job_record``.
        peers: this process and the other processes of the job.
        code: what ``provenance.record_submission`` returned about the code.

    Raises:
        Interrupted: if the process was asked to stop; progress has been saved.
        PeerLostError: if another process of the run is gone, which is not a failure of the run.
    """
    directory = RunDirectory(site.runs_folder, run)
    owned, answer = _claim(directory, job) if peers.rank == 0 else (None, None)
    try:
        answer = _broadcast(peers, f"claim/{run.signature}", answer)
        if answer is not None:
            return answer
        directory.path.mkdir(parents=True, exist_ok=True)
        with _logging_to(directory / "log.txt" if peers.rank == 0 else None):
            context = Context(
                directory=directory.path,
                signature=run.signature,
                rank=peers.rank,
                world_size=peers.world_size,
                local_rank=int(os.environ.get("LOCAL_RANK", "0")),
                threads=threads,
                num_workers=num_workers,
                checkpoint_steps=site.runs.checkpoint_steps,
                checkpoint_minutes=site.runs.checkpoint_minutes,
                async_checkpoints=site.runs.async_checkpoints,
                shard=shard,
                shard_degree=shard_degree,
                check_ownership=owned.check_ownership if owned is not None else lambda: None,
            )
            return _compute(run, site, directory, context, peers, job, code or {})
    finally:
        if owned is not None:
            owned.release()


def _broadcast(peers: Peers, topic: str, answer: ExecutionResult | None) -> ExecutionResult | None:
    """Return the answer of rank 0 on all ranks."""
    text = peers.broadcast(topic, json.dumps(answer and asdict(answer)))
    decided = json.loads(text)
    return decided and ExecutionResult(state=State(decided["state"]), reason=decided["reason"])


def _claim(
    directory: RunDirectory, job: JobRecord
) -> tuple[Lease, None] | tuple[None, ExecutionResult]:
    """Acquire the directory of a run to be computed, or return why it is not computed."""
    owned = None
    try:
        if (finished := _finished(directory)) is not None:
            return None, finished
        failure = directory.failure()
        if failure is not None and failure.token == job.token:
            # The run failed before this job was requeued.
            return None, ExecutionResult(state=State.FAILED, reason=failure.reason)
        directory.prepare()
        owned = lease.acquire(directory.path, job, pause=_pause)
        if (finished := _finished(directory)) is not None:  # while this process waited
            owned.release()
            return None, finished
        _delete_temporary_files(directory.path)
        (directory / "failure.json").unlink(missing_ok=True)
    except (DamagedFileError, lease.LeaseHeldError, OSError) as error:
        if owned is not None:
            owned.release()
        return None, _refusal(directory, job, error)
    return owned, None


def _finished(directory: RunDirectory) -> ExecutionResult | None:
    result = directory.result()
    return None if result is None else ExecutionResult(state=State(result["outcome"]))


def _refusal(directory: RunDirectory, job: JobRecord, error: Exception) -> ExecutionResult:
    """Return why the directory cannot be owned; record it if it is a failure of the run."""
    reason = one_line(error)
    if isinstance(error, lease.LeaseHeldError):
        return ExecutionResult(state=State.RUNNING, reason=reason)
    if isinstance(error, DamagedFileError):
        return ExecutionResult(state=State.DAMAGED, reason=reason)
    with suppress(OSError):
        directory.write_failure(Failure(reason=reason, token=job.token))
    return ExecutionResult(state=State.FAILED, reason=reason)


def _pause(polls: int = 1) -> None:
    """Sleep between two polls of another process's state, or for the time of several."""
    for _ in range(polls):
        if signals.stop_signal():
            raise Interrupted
        time.sleep(lease.POLL)


def _delete_temporary_files(folder: Path) -> None:
    """Delete the files that earlier owners of the directory were killed while writing."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        if path.name.startswith(".job.json."):
            continue  # a submission writes job.json after it has started the job, perhaps now
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _compute(
    run: Run,
    site: Site,
    directory: RunDirectory,
    context: Context,
    peers: Peers,
    job: JobRecord,
    code: Mapping[str, Any],
) -> ExecutionResult:
    started = time.time()
    try:
        if peers.rank == 0:
            write_json(directory / "environment.json", provenance.environment(code))
            write_progress(directory.path, 0, 0)
        context = replace(
            context,
            data=data.resolve_paths(data.source_names(run.config), site.data, site.file),
            needs=_needs(run, site, job.job),
        )
        log.info(
            "%s %s starts (process %d of %d)", run.task, run.signature, peers.rank, peers.world_size
        )
        outcome = _resolve(run.task)(context, run.config)
        state = State.DIVERGED if outcome.diverged else State.DONE
        if peers.rank == 0:
            context.check_ownership()
            directory.write_result(_result(state, outcome, time.time() - started))
    except lease.LeaseLostError as error:
        log.error("%s", error)
        # The new owner writes the result or the failure.
        return ExecutionResult(state=State.RUNNING, reason=str(error))
    except Exception as error:
        reason = one_line(error)
        log.error("%s failed: %s", run.signature, reason, exc_info=True)
        if signals.stop_signal():
            # Other processes of the run, such as its data loaders, may have been killed before this
            # one. An error of the run itself will occur again in the next attempt.
            raise Interrupted from error
        if peers.world_size > 1 and is_connection_error(error):
            raise PeerLostError(reason) from error
        failure = error.failure if isinstance(error, BlockedError) else Failure(reason=reason)
        with suppress(OSError):  # disk full: the reason is still in the job's output
            directory.write_failure(replace(failure, token=job.token))
        return ExecutionResult(state=State.FAILED, reason=reason)
    log.info("%s %s: %s", run.signature, state, dict(outcome.metrics))
    return ExecutionResult(state=state)


def _result(state: State, outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "outcome": state,
        "metrics": dict(outcome.metrics),
        "best": dict(outcome.best),
        "steps": outcome.steps,
        "details": dict(outcome.details),
        "hardware": provenance.hardware(),
        "seconds_of_last_attempt": round(seconds, 1),
        "finished_at": time.time(),
    }


def _needs(run: Run, site: Site, own: JobId) -> dict[str, Path]:
    """Return the directories of the runs that this one needs, by name, once these have finished.

    Args:
        own: the job of this process. Runs that it failed to start already are not waited for.

    Raises:
        BlockedError: if one of them has no result and no job is computing it.
    """
    found = {}
    queue = SlurmQueue()
    for name, need in run.needs.items():
        directory = RunDirectory(site.runs_folder, need)
        status = _last_status(directory, own, queue)
        if not status.state.finished:
            raise BlockedError(_blocked_by(name, need, status))
        found[name] = directory.path
    return found


def _last_status(directory: RunDirectory, own: JobId, queue: SlurmQueue) -> RunStatus:
    """Wait until no job computes a need, and return its status.

    A Slurm that does not answer is asked again, because its silence does not mean that the job is
    over. If it stays silent, or this node has no squeue, the owner's heartbeat decides.
    """
    deadline = time.monotonic() + job_status.SLURM_PATIENCE
    while True:
        try:
            jobs = job_status.job_statuses([directory], queue)
            deadline = time.monotonic() + job_status.SLURM_PATIENCE
        except ValueError as error:
            if not isinstance(error, NoSlurmError) and time.monotonic() < deadline:
                _pause(10)
                continue
            jobs = job_status.owner_status(directory)
        if own in jobs:  # this job takes its runs in order, so it has tried that one already
            jobs[own] = JobStatus(state=None, detail="it could not start the run")
        status = directory.status(jobs)
        if not status.state.live:
            return status
        _pause()


def _blocked_by(name: str, need: Run, status: RunStatus) -> Failure:
    """Return the failure of a run whose need has no result; a chain names only its root."""
    if status.failure is not None and status.failure.kind is FailureKind.BLOCKED:
        return status.failure
    why = f": {status.reason}" if status.reason else ""
    return Failure(
        kind=FailureKind.BLOCKED,
        reason=f"blocked by {need.task} {need.signature} ({name}), which is {status.state}{why}",
        root_run=need.signature,
    )


def _resolve(task: str) -> Any:
    module, _, function = task.partition(":")
    return getattr(importlib.import_module(module), function)


class _LogFile(logging.FileHandler):
    """File handler that ignores write errors, such as those of a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    """Also send the log of this block to ``path``; None for ranks whose job output is enough."""
    if path is None:
        yield
        return
    try:
        handler: logging.Handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror)
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
