"""One run inside a job: own its directory, compute it, write what comes out."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matched import data, interruption, jobs, lease, provenance
from matched.files import Damaged, write_json
from matched.interruption import Interrupted
from matched.lease import Lease
from matched.peers import PeerLost, Peers, is_loss
from matched.run import Run
from matched.rundir import RunDirectory, Seen, Standing
from matched.site import Site

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


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a task is told besides its config: where it runs. None of it may change a result.

    Attributes:
        directory: the run's directory.
        signature: the run's signature; a checkpoint carries it and is refused by another run.
        data: name → path of every data source of the config that has one.
        needs: name → directory of every run that this one starts from.
        rank, world: this process and the number of them; only rank 0 writes files.
        local_rank: this process among those of its node: the index of its GPU.
        threads: of this process, for arithmetic on the CPU.
        loaders: processes that load data for this process; 0 loads in this one.
        checkpoint_steps, checkpoint_minutes: a checkpoint is due after so many optimiser steps,
            and after so many minutes, whichever comes first.
        shard: spread the weights and the optimizer's state over the processes (FSDP2) rather than
            keep a copy on each (DDP).
        confirm: raises if another process has taken this run over; asked before anything is
            written that would stand beside what the other one writes.
    """

    directory: Path
    signature: str
    data: Mapping[str, Path] = field(default_factory=dict)
    needs: Mapping[str, Path] = field(default_factory=dict)
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    threads: int = 1
    loaders: int = 0
    checkpoint_steps: int = 500
    checkpoint_minutes: float = 10.0
    shard: bool = False
    confirm: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a task returns.

    Attributes:
        metrics: key → value of the last evaluation; after a divergence, of the best one.
        diverged: whether training diverged; a result, not a failure.
        steps: optimiser steps done.
        best: the evaluation with the best score, and its step.
        details: anything else worth keeping, in plain values. "picture" is the name of a PNG in
            the run's directory, which tables show, and "warnings" is a list of sentences, which
            stand below them.
    """

    metrics: Mapping[str, float]
    diverged: bool = False
    steps: int
    best: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def execute(
    run: Run,
    site: Site,
    job: Mapping[str, Any],
    peers: Peers,
    *,
    threads: int,
    loaders: int,
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
                world=peers.world,
                local_rank=int(os.environ.get("LOCAL_RANK", "0")),
                threads=threads,
                loaders=loaders,
                checkpoint_steps=site.runs.checkpoint_steps,
                checkpoint_minutes=site.runs.checkpoint_minutes,
                shard=shard,
                confirm=owned.confirm if owned is not None else lambda: None,
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
            return None, failure["why"]  # before this job was queued again
        directory.prepare()
        owned = lease.acquire(directory.path, job, pause=_pause)
        if (result := directory.result()) is not None:  # it was finished while we waited
            owned.release()
            return None, result["outcome"]
        _sweep(directory.path)
        (directory / "failure.json").unlink(missing_ok=True)
    except (Damaged, lease.Held, OSError) as error:
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
    if interruption.requested():
        raise Interrupted
    time.sleep(lease.POLL)


def _sweep(folder: Path) -> None:
    """Delete what processes that were killed had not written to the end."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")]:
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
            "%s %s starts (process %d of %d)", run.task, run.signature, peers.rank, peers.world
        )
        outcome = _resolve(run.task)(context, run.config)
        word = "diverged" if outcome.diverged else "done"
        if peers.rank == 0:
            context.confirm()
            directory.write_result(_result(word, outcome, time.time() - started))
    except lease.Lost as error:
        log.error("%s", error)
        return str(error)  # its failure or result is the new owner's to write
    except Exception as error:
        why = _one_line(error)
        log.error("%s failed: %s", run.signature, why, exc_info=True)
        if interruption.requested():
            # Other processes of the run, its data loaders among them, may have been ended before
            # this one. What would fail anyway fails again at the next start.
            raise Interrupted from error
        if peers.world > 1 and is_loss(error):
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


def write_progress(directory: Path, step: int, steps: int, **more: Any) -> None:
    """Tell ``status`` how far a run is: ``step`` of ``steps``, and anything worth showing."""
    write_json(
        directory / "progress.json", {"step": step, "steps": steps, "at": time.time(), **more}
    )


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
        while (standing := _standing(needed, own)).state.live:
            for _ in range(ASK_EVERY if "slurm" in standing.job else 1):
                _pause()
        if not standing.state.finished:
            if standing.why.startswith(BLOCKED):
                raise ValueError(standing.why)  # what is at the root of it, and not the whole chain
            why = f": {standing.why}" if standing.why else ""
            raise ValueError(
                f"{BLOCKED}{need.task} {need.signature} ({name}), which is {standing.state}{why}"
            )
        found[name] = needed.path
    return found


def _standing(directory: RunDirectory, own: str) -> Standing:
    try:
        seen = jobs.look([directory])
    except ValueError:  # Slurm cannot be asked from this node: what the files say has to do
        return directory.standing({})
    if own in seen:  # this job has been there already
        seen[own] = Seen(state=None, words="it could not begin it")
    return directory.standing(seen)


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
