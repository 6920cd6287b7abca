"""One run inside a job: own its directory, compute it, write what comes out."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from matched import data, job_status, lease, provenance, signals
from matched.files import DamagedFileError, write_json
from matched.lease import Lease
from matched.peers import PeerLost, Peers, is_loss
from matched.run import Run
from matched.run_directory import RunDirectory
from matched.signals import Interrupted
from matched.site import Site
from matched.status import JobStatus, RunStatus
from matched.task import Context, Outcome, write_progress

log = logging.getLogger("matched")
BLOCKED = "blocked by "
"""How the reason begins of a run that could not start because of another."""
ASK_EVERY = 30
"""Pauses between two questions to Slurm: its controller has others to answer."""
PASSED_ON = re.compile(
    r"Caught \w+ in [^\n]+\.\nOriginal .*Traceback \(most recent call last\):\n"
    r"(?: [^\n]*\n)+(?:[^\s:]+\.)?(?P<name>\w+)(?:: (?P<text>.*))?\n?",
    re.DOTALL,
)
"""An error of a data-loading process, which torch raises again with all of its traceback in it."""


def execute(
    run: Run,
    site: Site,
    job: Mapping[str, Any],
    peers: Peers,
    *,
    threads: int,
    num_workers: int,
    shard: bool = False,
    code: Mapping[str, Any] | None = None,
) -> str:
    """Compute one run unless its result is there; a failure is written down, not raised.

    Only the first process looks at the directory and owns it, the others do as it says.

    Args:
        job: what owns the run's directory meanwhile: see ``jobs.identity``.
        peers: this process among those of the job.
        code: what ``provenance.submission`` says of the code.

    Returns:
        "done", "diverged" or, in one line, why the run failed or was not begun.

    Raises:
        Interrupted: if the process was asked to stop; what was reached is saved.
        PeerLost: if another process of the run is gone, which is no failure of the run.
    """
    directory = RunDirectory(site.runs_folder, run)
    owned, word = _claim(directory, job) if peers.rank == 0 else (None, None)
    try:
        word = peers.agree(f"claim/{run.signature}", word)
        if word:
            return word
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
                shard=shard,
                check_ownership=owned.check_ownership if owned is not None else lambda: None,
            )
            return _compute(run, site, directory, context, peers, job, code or {})
    finally:
        if owned is not None:
            owned.release()


def _claim(directory: RunDirectory, job: Mapping[str, Any]) -> tuple[Lease | None, str]:
    """Own the directory of a run that is to be computed; else nothing, and why not."""
    owned = None
    try:
        if (result := directory.result()) is not None:
            return None, result["outcome"]
        failure = directory.failure()
        if failure is not None and failure["token"] == job["token"]:
            return None, failure["reason"]  # before this job was queued again
        directory.prepare()
        owned = lease.acquire(directory.path, job, pause=_pause)
        if (result := directory.result()) is not None:  # it was finished while we waited
            owned.release()
            return None, result["outcome"]
        _delete_temporary_files(directory.path)
        (directory / "failure.json").unlink(missing_ok=True)
    except (DamagedFileError, lease.LeaseHeldError, OSError) as error:
        if owned is not None:
            owned.release()
        why = _one_line(error)
        if isinstance(error, OSError):
            with suppress(OSError):
                directory.write_failure(why, job["token"])
        return None, why
    return owned, ""


def _pause() -> None:
    """Between two looks at something that others do."""
    if signals.stop_signal():
        raise Interrupted
    time.sleep(lease.POLL)


def _delete_temporary_files(folder: Path) -> None:
    """Delete the files that earlier owners of the directory were killed while writing."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")]:
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
    job: Mapping[str, Any],
    code: Mapping[str, Any],
) -> str:
    started = time.time()
    try:
        if peers.rank == 0:
            write_json(directory / "environment.json", provenance.environment(code))
            write_progress(directory.path, 0, 0)
        context = replace(
            context,
            data=data.resolve(data.names_read(run.config), site.data, site.file),
            needs=_needs(run, site, job["key"]),
        )
        log.info(
            "%s %s starts (process %d of %d)", run.task, run.signature, peers.rank, peers.world_size
        )
        outcome = _resolve(run.task)(context, run.config)
        word = "diverged" if outcome.diverged else "done"
        if peers.rank == 0:
            context.check_ownership()
            directory.write_result(_result(word, outcome, time.time() - started))
    except lease.LeaseLostError as error:
        log.error("%s", error)
        return str(error)  # its failure or result is the new owner's to write
    except Exception as error:
        why = _one_line(error)
        log.error("%s failed: %s", run.signature, why, exc_info=True)
        if signals.stop_signal():
            # Other processes of the run, its data loaders among them, may have been ended before
            # this one. What would fail anyway fails again at the next start.
            raise Interrupted from error
        if peers.world_size > 1 and is_loss(error):
            raise PeerLost(why) from error
        with suppress(OSError):  # not even room for the reason: the job's own output has it
            directory.write_failure(why, job["token"])
        return why
    log.info("%s %s: %s", run.signature, word, dict(outcome.metrics))
    return word


def _result(word: str, outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "outcome": word,
        "metrics": dict(outcome.metrics),
        "best": dict(outcome.best),
        "steps": outcome.steps,
        "details": dict(outcome.details),
        "seconds_of_last_attempt": round(seconds, 1),
        "finished_at": time.time(),
    }


def _needs(run: Run, site: Site, own: str) -> dict[str, Path]:
    """Name → directory of the runs that this one starts from; those still at work are awaited.

    Args:
        own: key of the job that asks: what it could not begin itself is not waited for.

    Raises:
        ValueError: if one of them has no result and nobody is computing it.
    """
    found = {}
    for name, need in run.needs.items():
        needed = RunDirectory(site.runs_folder, need)
        while (status := _status(needed, own)).state.live:
            for _ in range(ASK_EVERY if "slurm" in status.job else 1):
                _pause()
        if not status.state.finished:
            if status.reason.startswith(BLOCKED):
                raise ValueError(
                    status.reason
                )  # what is at the root of it, and not the whole chain
            why = f": {status.reason}" if status.reason else ""
            raise ValueError(
                f"{BLOCKED}{need.task} {need.signature} ({name}), which is {status.state}{why}"
            )
        found[name] = needed.path
    return found


def _status(directory: RunDirectory, own: str) -> RunStatus:
    try:
        seen = job_status.job_statuses([directory])
    except ValueError:  # Slurm cannot be asked from this node: what the files say has to do
        return directory.status({})
    if own in seen:  # this job has been there already
        seen[own] = JobStatus(state=None, words="it could not begin it")
    return directory.status(seen)


def _resolve(task: str) -> Any:
    module, _, function = task.partition(":")
    return getattr(importlib.import_module(module), function)


def _one_line(error: BaseException) -> str:
    """The message, before it the type unless it is a ValueError, which is a user's mistake."""
    name, text = type(error).__name__, str(error)
    if passed_on := PASSED_ON.fullmatch(text):
        name, text = passed_on["name"], passed_on["text"] or ""
    text = " ".join(text.split())
    if isinstance(error, ValueError) and text:
        return text
    return f"{name}: {text}" if text else name


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short, without a traceback for each line that is lost."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    """Send the log of this block to ``path`` too; other ranks only to the job's own output."""
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
