"""Inside a job: compute the runs it was given, one after the other, and write what comes out."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import submitit
import submitit.helpers

from matched import data
from matched.files import Damaged, write_json
from matched.run import Run
from matched.rundir import RunDirectory
from matched.site import Site

log = logging.getLogger("matched")


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
        details: anything else worth keeping, in plain values.
    """

    metrics: Mapping[str, float]
    diverged: bool = False
    steps: int
    best: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Pack(submitit.helpers.Checkpointable):
    """The callable that submitit pickles: several runs that share one job.

    When the job is preempted or timed out, submitit queues the same pack again (``checkpoint``,
    inherited); finished runs are then skipped and the cut one resumes from its newest checkpoint.
    """

    runs: list[Run]
    site: Site
    threads: int
    loaders: int
    gpus: tuple[int, ...] | None = None
    """Indices of the GPUs to use; None leaves the choice to whoever started the job."""

    def __call__(self) -> dict[str, str]:
        """Called by submitit: signature → "done", "diverged" or the reason of the failure."""
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpus))
        environment = submitit.JobEnvironment()
        if environment.cluster != "debug":  # there the terminal shows the runs' progress already
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        if environment.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        return self.compute()

    def compute(self) -> dict[str, str]:
        """As ``__call__``, in a process whose environment is set up already.

        Raises:
            SystemExit: if a run of several processes fails: the others wait for this one, and only
                the end of the job ends them.
        """
        _limit_threads(self.threads)
        outcomes = {}
        for run in self.runs:
            outcome = execute(run, self.site, threads=self.threads, loaders=self.loaders)
            outcomes[run.signature] = outcome
            if outcome not in ("done", "diverged") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise SystemExit(f"matched: error: {outcome}")
        return outcomes


def execute(run: Run, site: Site, *, threads: int, loaders: int) -> str:
    """Compute one run unless its result is there; a failure is written down, not raised.

    Returns "done", "diverged" or, in one line, why the run failed.
    """
    rank = int(os.environ.get("RANK", "0"))
    directory = RunDirectory(site.runs_folder, run)
    try:
        if (result := directory.result()) is not None:
            return result["outcome"]
        if rank == 0:
            directory.prepare()
        directory.path.mkdir(parents=True, exist_ok=True)  # another process may be the first here
    except Damaged as error:
        return str(error)
    with _logging_to(directory / "log.txt" if rank == 0 else None):
        started = time.time()
        try:
            context = _context(run, site, directory, threads, loaders)
            if rank == 0:
                write_json(directory / "environment.json", environment())
                write_progress(directory.path, 0, 0)
            log.info(
                "%s %s starts (process %d of %d)", run.task, run.signature, rank, context.world
            )
            outcome = _resolve(run.task)(context, run.config)
            word = "diverged" if outcome.diverged else "done"
            if rank == 0:
                directory.write_result(_result(word, outcome, time.time() - started))
            else:
                _wait_for_result(directory)
        except Exception as error:
            why = _one_line(error)
            log.error("%s failed: %s", run.signature, why, exc_info=True)
            if rank == 0:
                directory.write_failure(why)
            return why
        log.info("%s %s: %s", run.signature, word, dict(outcome.metrics))
        return word


def _wait_for_result(directory: RunDirectory) -> None:
    """Rank 0 may be writing it yet, and the next run of the pack may need it."""
    while directory.result() is None:
        time.sleep(0.1)


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


def _context(run: Run, site: Site, directory: RunDirectory, threads: int, loaders: int) -> Context:
    needs = {}
    for name, need in run.needs.items():
        needed = RunDirectory(site.runs_folder, need)
        if needed.result() is None:
            raise ValueError(f"blocked by {need.task} {need.signature} ({name}): it has no result")
        needs[name] = needed.path
    return Context(
        directory=directory.path,
        signature=run.signature,
        data=data.resolve(data.names_read(run.config), site.data, site.file),
        needs=needs,
        rank=int(os.environ.get("RANK", "0")),
        world=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        threads=threads,
        loaders=loaders,
        checkpoint_steps=site.runs.checkpoint_steps,
    )


def _resolve(task: str) -> Any:
    module, _, function = task.partition(":")
    return getattr(importlib.import_module(module), function)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, ValueError) and text:
        return text
    return f"{name}: {text}" if text else name


def _limit_threads(threads: int) -> None:
    """Before torch is imported: more threads than cores cost a multiple of what they bring."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, for environment.json."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": sys.version.split()[0],
        "packages": {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name)},
        "commit": _commit(),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
        "cuda": torch.version.cuda if cuda else None,
    }


def _commit() -> str | None:
    """The commit that this code is of; None where there is no git or no repository."""
    if shutil.which("git") is None:
        return None
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return answer.stdout.strip() if answer.returncode == 0 else None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    """Send the log of this block to ``path`` too; other ranks only to the job's own output."""
    if path is None:
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
