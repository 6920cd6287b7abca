"""Internals of submitit: the only module that uses names which submitit does not document.

tests/matched/test_submitit_internals.py says what to adapt if a version of submitit moves one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit
from submitit.core import utils
from submitit.local import local
from submitit.slurm import slurm

TESTED_VERSIONS = ">=1.5.3,<1.6"
"""The range in pyproject.toml."""


def sbatch_script(parameters: Mapping[str, Any], folder: Path, array_size: int | None) -> str:
    """Return the script that ``AutoExecutor`` would give to sbatch, without its command.

    submitit has no public way to see it before a submission, or on a machine without Slurm.

    Args:
        parameters: as for ``AutoExecutor.update_parameters``.
        folder: as for ``AutoExecutor``.
        array_size: number of jobs of an array; None for a single job.
    """
    options = sbatch_parameters(parameters)
    if "mem" in options:
        options["mem"] = f"{options['mem']}GB"
    return slurm._make_sbatch_string(command="", folder=folder, map_count=array_size, **options)


def sbatch_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of ``AutoExecutor`` under the names that they have for sbatch."""
    names: Any = slurm.SlurmExecutor._equivalence_dict() or {}
    return {names.get(k, k.removeprefix("slurm_")): value for k, value in parameters.items()}


def requeue_on_slurm(environment: submitit.JobEnvironment) -> None:
    """Requeue the Slurm job that this process belongs to.

    submitit itself requeues only from its own handler of the preemption signal, which
    ``signals.watch_signals`` replaces: the handler does not wait for a step boundary.

    Raises:
        OSError, subprocess.SubprocessError: if scontrol cannot be run or fails.
    """
    environment._requeue(countdown=0)  # the countdown is only logged


def local_requeue_exit_code() -> int:
    """Return the exit code with which a process has submitit's local controller restart its job."""
    return local.LOCAL_REQUEUE_RETURN_CODE


@contextmanager
def background_streams(output: Path) -> Iterator[None]:
    """Give the processes that the block starts no input, and ``output`` for what they print.

    submitit's controller of a local job inherits the streams of this process. It would hold the
    pipe of ``matched submit | tee log`` open until its last run has ended.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed, as after ``2>&-`` in a shell
            stream.flush()
    kept = {number: _duplicate(number) for number in (0, 1, 2)}
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        _open_as(os.devnull, os.O_RDONLY, 0)
        _open_as(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 1)
        os.dup2(1, 2)
        yield
    finally:
        for number, copy in kept.items():
            if copy is None:
                os.close(number)
            else:
                os.dup2(copy, number)
                os.close(copy)


def _duplicate(number: int) -> int | None:
    """Return a copy of a file descriptor; None if it is closed."""
    try:
        return os.dup(number)
    except OSError:
        return None


def _open_as(path: Path | str, flags: int, number: int) -> None:
    opened = os.open(path, flags, 0o644)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


def submission_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a submission raises if sbatch fails."""
    return utils.FailedJobError, utils.FailedSubmissionError, subprocess.CalledProcessError
