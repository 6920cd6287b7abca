"""Requeueing of jobs: preemption, time limits, lost processes, and when a restart is pointless.

A job that gets the preemption signal saves its run and is requeued, so that it resumes from the
checkpoint. On Slurm, rank 0 runs ``scontrol requeue``; on this machine, submitit's controller
restarts a job that exits with a certain code. A cancelled job (SIGTERM) is not requeued.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import submitit

from matched import signals, submitit_internals
from matched.files import CHECKSUM_SUFFIX
from matched.run import Run
from matched.run_directory import RunDirectory
from matched.signals import PREEMPTION_SIGNAL
from matched.site import Site
from matched.status import Failure, FailureKind

log = logging.getLogger("matched")
EXIT_STOPPED = 128 + signal.SIGTERM
KILL_TIMEOUT = 600
"""Seconds that a process waits to be killed by Slurm before it exits."""
MAX_RESTARTS = 3
"""Restarts of a job that lost a process and has not saved anything new."""


class Requeuer:
    """Stops a job attempt and requeues the job if it can make progress.

    Args:
        cluster: "slurm", "local", or else a cluster whose jobs are never requeued.
        environment: submitit's description of this job; None outside of submitit.
        token: the submission's token, written into failure.json.
        minutes: time limit of the job; None without one.
        num_runs: how many runs the job has.
        rank: of this process; only rank 0 requeues a preempted job.
    """

    def __init__(
        self,
        *,
        cluster: str,
        environment: submitit.JobEnvironment | None,
        site: Site,
        token: str,
        minutes: int | None,
        num_runs: int,
        rank: int,
    ) -> None:
        self.cluster, self.environment = cluster, environment
        self.site, self.token, self.minutes = site, token, minutes
        self.num_runs, self.rank = num_runs, rank
        self.job_started = time.monotonic()
        self.run: Run | None = None
        self.run_began_with_job = False
        self.saved_before: set[Path] = set()

    def begin_run(self, run: Run) -> None:
        """Note what ``run`` has saved so far; called before each run of the job."""
        self.run, self.saved_before = run, self._saved_files(run)
        self.run_began_with_job = time.monotonic() - self.job_started < 60

    def stop(self, number: signal.Signals) -> NoReturn:
        """Stop this job attempt after a signal, with the current run saved; requeue if preempted.

        Raises:
            SystemExit: always.
        """
        elapsed = time.monotonic() - self.job_started
        log.info("stopped by %s after %.0f s", number.name, elapsed)
        if self.cluster == "slurm":
            if number == PREEMPTION_SIGNAL and self.rank == 0 and self._is_worth_restart():
                self._requeue_on_slurm()
            self._wait_until_killed()
        if number == PREEMPTION_SIGNAL and self.cluster == "local":
            raise SystemExit(submitit_internals.local_requeue_exit_code())
        raise SystemExit(EXIT_STOPPED)

    def stop_overdue(self, number: signal.Signals) -> None:
        """Like ``stop``, for a run that did not save in time; called in another thread.

        The next attempt falls back to the last checkpoint.
        """
        log.warning("no step has ended since %s; going back to the last checkpoint", number.name)
        if self.cluster != "slurm":
            requeue = number == PREEMPTION_SIGNAL and self.cluster == "local"
            os._exit(submitit_internals.local_requeue_exit_code() if requeue else EXIT_STOPPED)
        if number == PREEMPTION_SIGNAL and self.rank == 0 and self._is_worth_restart():
            self._requeue_on_slurm()

    def abort_after_lost_process(self, reason: str) -> NoReturn:
        """End all processes of the job after one of them was lost; requeue within limits."""
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.abort(reason, requeue=self._has_progressed() or restarts < MAX_RESTARTS)

    def abort(self, reason: str, *, requeue: bool) -> NoReturn:
        """End all processes of the job, even those that hang; requeue the job if asked to."""
        log.error("the job ends because of %s: %s", self.run and self.run.signature, reason)
        code = 1
        if self.cluster == "slurm" and requeue:
            self._requeue_on_slurm()
        elif self.cluster == "local" and self.environment is not None:
            code = submitit_internals.local_requeue_exit_code() if requeue else 1
            # submitit's controller passes the signal on to the other processes.
            os.kill(int(self.environment.job_id), signal.SIGTERM)
        print(f"matched: error: {reason}", file=sys.stderr)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        # Do not raise: the threads of a collective that never ends would abort the process during
        # Python's shutdown, with another exit code.
        os._exit(code)

    def _requeue_on_slurm(self) -> NoReturn:
        assert self.environment is not None
        try:
            submitit_internals.requeue_on_slurm(self.environment)
        except (OSError, subprocess.SubprocessError) as error:
            # Slurm may have requeued the job already, in which case the error does not matter.
            log.warning("the job could not be requeued: %s", error)
        self._wait_until_killed()

    def _wait_until_killed(self) -> NoReturn:
        """Wait for Slurm to end this job attempt.

        Do not exit: Slurm would kill the other ranks before they save, and regard as finished a job
        that it may be about to requeue. Slurm ends the job attempt by sending SIGTERM after the
        first signal.
        """
        deadline = time.monotonic() + KILL_TIMEOUT
        while time.monotonic() < deadline and signal.SIGTERM not in signals.received_signals()[1:]:
            time.sleep(0.1)
        raise SystemExit(EXIT_STOPPED)

    def _has_progressed(self) -> bool:
        return self.run is not None and bool(self._saved_files(self.run) - self.saved_before)

    def _is_worth_restart(self) -> bool:
        """True unless the current run had the job's whole time and saved nothing.

        Such a run is recorded as failed; the job is then requeued only for its other runs.
        """
        if self.run is None or self.minutes is None or not self.run_began_with_job:
            return True
        if self._has_progressed():
            return True
        elapsed = time.monotonic() - self.job_started
        # Slurm may send the signal up to a minute early.
        if elapsed < 60 * (self.minutes - 1) - self.site.slurm.grace_seconds:
            return True
        directory = RunDirectory(self.site.runs_folder, self.run)
        if (directory / "result.json").exists():
            return True
        reason = (
            f"no step was saved in the whole time of a job, {self.minutes} min: raise max_hours "
            "under [slurm], or the minutes of the recipe's resources"
        )
        directory.write_failure(
            Failure(kind=FailureKind.NO_PROGRESS, reason=reason, token=self.token)
        )
        return self.num_runs > 1

    def _saved_files(self, run: Run) -> set[Path]:
        """Return the checkpoints of a run and its complete files of ``training.file_tasks``."""
        folder = RunDirectory(self.site.runs_folder, run).path
        return {*folder.glob("checkpoints/step_*"), *folder.glob(f"**/*{CHECKSUM_SUFFIX}")}
