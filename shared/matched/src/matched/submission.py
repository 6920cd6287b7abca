"""Submission of a plan's missing runs to submitit, and their computation in this process."""

from __future__ import annotations

import io
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit

from matched import job_status, lease, provenance, submitit_internals
from matched.job_packing import PackedJob, job_arrays, memory_note, pack_jobs, time_note
from matched.job_runner import JobRunner
from matched.planning import Plan
from matched.preflight import check_submission
from matched.recipes import Recipe
from matched.signals import PREEMPTION_SIGNAL
from matched.slurm_request import array_parameters, slurm_options
from matched.status import ExecutionResult
from matched.surroundings import submission_environment

log = logging.getLogger("matched")


def submit(
    plan: Plan, cluster: str, *, snapshot: bool = False
) -> tuple[Plan, list[submitit.Job[Any]]]:
    """Submit every missing run and record its job in job.json of the run's directory.

    Concurrent submissions from one runs folder take turns. Each of them plans again when its turn
    comes, so none starts a run that an earlier one has started.

    Args:
        plan: its states are read again when it is this submission's turn.
        snapshot: jobs run from a copy of the code made now.

    Returns:
        The plan that was submitted, and its jobs.

    Raises:
        ValueError: as ``preflight.check_submission``, or with Slurm's message if it refuses a job.
    """
    check_submission(plan, cluster)
    if not plan.missing:
        return plan, []
    folder = plan.site.runs_folder / ".jobs"
    submitter = job_status.job_record("here", str(os.getpid()), secrets.token_hex(4), folder)
    turn = lease.acquire(folder / "submitting", submitter, wait=True)
    try:
        plan = plan.refreshed()
        return plan, _submit(plan, cluster, folder, snapshot)
    finally:
        turn.release()


def _submit(plan: Plan, cluster: str, folder: Path, snapshot: bool) -> list[submitit.Job[Any]]:
    packed = pack_jobs(plan, cluster)
    if not packed:
        return []
    for note in (memory_note(plan, packed, cluster), time_note(plan, packed, cluster)):
        if note:
            log.warning("%s", note)
    if snapshot and cluster == "debug":
        raise ValueError(
            "--snapshot cannot be used with --cluster debug, which runs in this process; "
            "use --cluster local or slurm"
        )
    recipe = plan.recipe
    code = provenance.record_submission(folder / "submissions", recipe.project, snapshot=snapshot)
    python_path = provenance.job_python_path(code, recipe.project, recipe.python_path)
    if snapshot:
        _check_recipe_in_snapshot(recipe, code)
    submission = _Submission(
        plan=plan,
        packed=packed,
        cluster=cluster,
        folder=folder,
        code=code,
        python=_python_command(python_path),
        token=secrets.token_hex(4),
    )
    submitted: dict[int, submitit.Job[Any]] = {}
    for array in job_arrays(packed, plan.site.slurm.max_array):
        first = packed[array[0]]
        dependencies = [*(submitted[i].job_id for i in first.after), *first.after_ids]
        jobs = submission.submit_array(array, dependencies)
        submitted.update(zip(array, jobs, strict=True))
    return [submitted[i] for i in sorted(submitted)]


@dataclass(frozen=True, kw_only=True)
class _Submission:
    """Plan, code and settings that the arrays of one submission share.

    Attributes:
        folder: of submitit's files.
        code: as ``provenance.record_submission`` returns it.
        python: the shell command that starts a job's Python.
    """

    plan: Plan
    packed: Sequence[PackedJob]
    cluster: str
    folder: Path
    code: Mapping[str, Any]
    python: str
    token: str

    def submit_array(
        self, array: Sequence[int], dependencies: list[str]
    ) -> list[submitit.Job[Any]]:
        """Submit the jobs at these positions, and record each in the directories of its runs.

        Args:
            dependencies: ids of jobs that have to end before.

        Raises:
            ValueError: with Slurm's message, if it refuses them.
        """
        parameters = array_parameters(self.plan, self.packed, array, self.cluster, dependencies)
        for i in array:
            for planned in self.packed[i].runs:
                planned.directory.prepare()
                (planned.directory / "failure.json").unlink(missing_ok=True)
        now = time.time()
        try:
            jobs = self._start(array, parameters)
        except submitit_internals.submission_errors() as error:
            raise ValueError(f"Slurm refused the job: {_last_line(error)}") from None
        for i, job in zip(array, jobs, strict=True):
            job_id = str(os.getpid()) if self.cluster == "debug" else job.job_id
            record = job_status.job_record(self.cluster, job_id, self.token, job.paths.folder)
            record = replace(record, at=now, submission=self.code["submission"])
            for planned in self.packed[i].runs:
                planned.directory.write_job(record)
        return jobs

    def _start(
        self, array: Sequence[int], parameters: Mapping[str, Any]
    ) -> list[submitit.Job[Any]]:
        """Pass the jobs to submitit."""
        executor = submitit.AutoExecutor(
            folder=self.folder / "%j",
            cluster=self.cluster,
            slurm_python=self.python,
            local_python=self.python,
        )
        executor.update_parameters(**parameters)
        minutes = parameters.get("timeout_min")
        streams: AbstractContextManager[object] = nullcontext()
        if self.cluster == "local":
            output = Path(self.code["submission"]) / "controllers.log"
            streams = submitit_internals.background_streams(output)
        # sbatch's error messages are raised; do not print them as well.
        with (
            streams,
            redirect_stderr(io.StringIO()),
            submission_environment(slurm_options(parameters), self.cluster),
            executor.batch(),
        ):
            return [executor.submit(self._job_runner(i, minutes)) for i in array]

    def _job_runner(self, position: int, minutes: int | None) -> JobRunner:
        options = {"token": self.token, "code": self.code, "minutes": minutes}
        return _job_runner(self.plan, self.packed[position], self.cluster, position, **options)


def _check_recipe_in_snapshot(recipe: Recipe, code: Mapping[str, Any]) -> None:
    """Raise ValueError if a user's own recipe file is not among the copied files."""
    snapshot = Path(code["snapshot"])
    inside = recipe.path.is_relative_to(recipe.project)
    if not inside or not (snapshot / recipe.path.relative_to(recipe.project)).is_file():
        raise ValueError(
            f"--snapshot copies the files of {recipe.project} that git does not ignore, and "
            f"{recipe.path} is not among them; move it there, or submit without a snapshot"
        )


def _python_command(path: str | None) -> str:
    """Return the shell command that starts a job's Python, with ``path`` as its PYTHONPATH.

    The preemption signal would kill a Python that has not installed its handler yet. A minimal
    Python therefore blocks the signal and then executes the real one, which unblocks it in
    ``signals.watch_signals``.
    """
    environment = [] if path is None else ["env", f"PYTHONPATH={path}"]
    block = f"signal.pthread_sigmask(signal.SIG_BLOCK, [{PREEMPTION_SIGNAL:d}])"
    start = f"import os, signal, sys; {block}; os.execv(sys.argv[1], sys.argv[1:])"
    return shlex.join([*environment, sys.executable, "-I", "-S", "-c", start, sys.executable])


def _job_runner(
    plan: Plan, job: PackedJob, cluster: str, position: int, **options: Any
) -> JobRunner:
    """Return the callable of a packed job; local jobs get the GPUs of their ``position``."""
    resources = job.resources
    on_slurm = cluster == "slurm"
    first = position * resources.gpus
    return JobRunner(
        runs=[planned.run for planned in job.runs],
        resources=[resources] * len(job.runs),
        site=plan.site,
        threads=resources.cpus if on_slurm else plan.site.local.threads,
        gpus=None if on_slurm else plan.site.local.usable_gpus()[first : first + resources.gpus],
        **options,
    )


def _last_line(error: Exception) -> str:
    text = getattr(error, "output", None) or str(error)
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def run_in_process(plan: Plan) -> dict[str, ExecutionResult]:
    """Compute the plan's unfinished runs in this process, or in each process of torchrun.

    Every rank iterates over all runs, finished ones included. Only rank 0 decides which to skip,
    because the states that the other ranks would read may change meanwhile.

    Returns:
        Signature → outcome, as ``JobRunner.compute``.
    """
    token = secrets.token_hex(4)
    if os.environ.get("RANK", "0") == "0":
        for planned in plan.missing:
            planned.directory.prepare()
            folder = planned.directory.path
            record = job_status.job_record("here", str(os.getpid()), token, folder)
            planned.directory.write_job(record)
    runner = JobRunner(
        runs=[planned.run for planned in plan.runs],
        resources=[planned.resources for planned in plan.runs],
        site=plan.site,
        threads=plan.site.local.threads,
        token=token,
    )
    return runner.compute("here", str(os.getpid()))
