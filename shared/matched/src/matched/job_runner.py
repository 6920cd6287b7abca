"""A job: several runs one after the other, and what becomes of it when it is cut short."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import submitit
import submitit.helpers
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from matched import job_status, signals
from matched.files import CHECKSUM_SUFFIX
from matched.peers import PeerLost, Peers
from matched.run import Run
from matched.run_directory import RunDirectory
from matched.run_execution import execute
from matched.signals import PREEMPTION_SIGNAL, Interrupted
from matched.site import Site
from matched.table import Resources

log = logging.getLogger("matched")
STOPPED = 128 + signal.SIGTERM
UNTIL_KILLED = 600
"""Seconds that a process waits for Slurm to end it; by then it is not going to."""
HANGS = 20
"""Seconds after the failure of one process in which the others have to come to their end."""


@dataclass(kw_only=True)
class JobRunner(submitit.helpers.Checkpointable):
    """The callable that submitit pickles: several runs that share one job.

    Attributes:
        resources: of each run, in the order of ``runs``.
        gpus: indices of the GPUs to use; None leaves the choice to whoever started the job.
        token: tells this submission's failures from earlier ones'.
        minutes: time limit of the job; None where it has none.
        code: what ``provenance.submission`` says.
    """

    runs: list[Run]
    resources: list[Resources]
    site: Site
    threads: int
    token: str
    gpus: tuple[int, ...] | None = None
    minutes: int | None = None
    code: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> dict[str, str]:
        """Called by submitit: signature → "done", "diverged" or the reason of the failure."""
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpus))
        environment = submitit.JobEnvironment()
        if environment.cluster == "debug":  # there the terminal shows the runs' progress already
            return self.compute("debug", str(os.getpid()))
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        if environment.num_tasks > 1:
            # A site whose nodes' names do not resolve, or have a faster network, sets its own.
            address = os.environ.get("MASTER_ADDR")
            submitit.helpers.TorchDistributedEnvironment().export(
                set_cuda_visible_devices=False, overwrite=True
            )
            os.environ["MASTER_ADDR"] = address or os.environ["MASTER_ADDR"]
        return self.compute(environment.cluster, environment.job_id, environment)

    def compute(
        self, cluster: str, job_id: str, environment: submitit.JobEnvironment | None = None
    ) -> dict[str, str]:
        """As ``__call__``, in a process whose environment is set up already.

        Raises:
            SystemExit: if the process was asked to stop, or has to end for others' sake.
        """
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            # Before torch is imported: more threads than cores cost a multiple of what they bring.
            os.environ[name] = str(self.threads)
        return _Attempt(self, cluster, job_id, environment).go()


def _signal() -> signal.Signals:
    """What this job was told; another process may have passed it on before it came here."""
    deadline = time.monotonic() + 5
    while (number := signals.stop_signal()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return number or signal.SIGTERM


class _Attempt:
    """One start of a pack's job, which may have been started before."""

    def __init__(
        self,
        pack: JobRunner,
        cluster: str,
        job_id: str,
        environment: submitit.JobEnvironment | None,
    ) -> None:
        self.pack, self.cluster, self.environment = pack, cluster, environment
        folder = pack.site.runs_folder / ".jobs" / job_id
        identity = job_status.identity(cluster, job_id, pack.token)
        self.job = {**identity, "folder": str(folder), "at": time.time()}
        self.peers = Peers()
        self.started = time.monotonic()
        self.run: Run | None = None
        self.saved: set[Path] = set()
        """What the run at work had saved when it was begun."""
        self.first = False
        """Whether it was begun as soon as the job was."""

    def go(self) -> dict[str, str]:
        outcomes: dict[str, str] = {}
        # The last quarter of the grace period is for queueing the job again.
        grace = 0.75 * self.pack.site.slurm.grace_seconds
        with signals.watch_signals(grace, self._overdue):
            try:
                both = zip(self.pack.runs, self.pack.resources, strict=True)
                for i, (run, resources) in enumerate(both, start=1):
                    outcomes[run.signature] = self._one(run, resources, i == len(self.pack.runs))
            except Interrupted:
                self._give_way(_signal())
        self.peers.close()
        return outcomes

    def _one(self, run: Run, resources: Resources, last: bool) -> str:
        if signals.stop_signal():
            raise Interrupted
        pack = self.pack
        self.run, self.saved = run, self._saved(run)
        self.first = time.monotonic() - self.started < 60
        try:
            outcome = execute(
                run,
                pack.site,
                self.job,
                self.peers,
                threads=pack.threads,
                num_workers=resources.num_workers,
                shard=resources.shard,
                code=pack.code,
            )
        except PeerLost as error:
            return self._lost(str(error))
        well = outcome in ("done", "diverged")
        if not self.peers.all_over(run.signature, 3600 if well else HANGS):
            # Another process hangs in a collective; only the end of the job ends it.
            self._abandon(outcome, requeue=not last)
        return outcome

    def _lost(self, why: str) -> str:
        """Another process is gone: killed, or its node. Or it has failed, and is here to say so."""
        if signals.stop_signal():
            raise Interrupted
        assert self.run is not None, "a run is being computed"
        if not self.peers.all_over(self.run.signature, HANGS):
            restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
            self._abandon(why, requeue=self._progressed() or restarts < 3)
        return why

    def _abandon(self, why: str, requeue: bool) -> NoReturn:
        """End all processes of the job; ``again``: it is queued again and goes on."""
        log.error("the job ends because of %s: %s", self.run and self.run.signature, why)
        code = 1
        if self.cluster == "slurm" and requeue:
            self._requeue()
        elif self.cluster == "local" and self.environment is not None:
            code = LOCAL_REQUEUE_RETURN_CODE if requeue else 1
            os.kill(int(self.environment.job_id), signal.SIGTERM)  # which tells the others
        print(f"matched: error: {why}", file=sys.stderr)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        # Not by an exception: threads of a collective that never ends would abort the process in
        # the middle of Python's own clean-up, with another exit code.
        os._exit(code)

    def _give_way(self, number: signal.Signals) -> NoReturn:
        """The run has been saved, or there was none: queue the job again where that is for us."""
        log.info("stopped by %s after %.0f s", number.name, time.monotonic() - self.started)
        if self.cluster == "slurm":
            if number == PREEMPTION_SIGNAL and self.peers.rank == 0 and self._worth_it():
                self._requeue()
            self._until_killed()
        if number == PREEMPTION_SIGNAL and self.cluster == "local":
            raise SystemExit(LOCAL_REQUEUE_RETURN_CODE)
        raise SystemExit(STOPPED)

    def _overdue(self, number: signal.Signals) -> None:
        """In another thread: the run did not save in time; its last checkpoint has to do."""
        log.warning("no step has ended since %s; going back to the last checkpoint", number.name)
        if self.cluster != "slurm":
            requeue = number == PREEMPTION_SIGNAL and self.cluster == "local"
            os._exit(LOCAL_REQUEUE_RETURN_CODE if requeue else STOPPED)
        if number == PREEMPTION_SIGNAL and self.peers.rank == 0 and self._worth_it():
            self._requeue()

    def _requeue(self) -> None:
        """Queue the job again and wait for Slurm to end this start of it."""
        assert self.environment is not None
        try:
            self.environment._requeue(countdown=0)
        except (OSError, subprocess.SubprocessError) as error:
            # Slurm may have queued it again by itself: this is then of no account.
            log.warning("the job could not be queued again: %s", error)
        self._until_killed()

    def _until_killed(self) -> NoReturn:
        """Wait for Slurm to end this start of the job.

        An exit would end the other processes before they have saved, and Slurm would take it for
        the end of the job, which it may be about to queue again. SIGTERM after another signal is
        that end.
        """
        deadline = time.monotonic() + UNTIL_KILLED
        while time.monotonic() < deadline and signal.SIGTERM not in signals.received_signals()[1:]:
            time.sleep(0.1)
        raise SystemExit(STOPPED)

    def _progressed(self) -> bool:
        assert self.run is not None, "a run is being computed"
        return bool(self._saved(self.run) - self.saved)

    def _worth_it(self) -> bool:
        """Whether another start of the job would get any further than this one.

        A run that had the whole time of the job and saved nothing has failed for good.
        """
        limit = self.pack.minutes
        if self.run is None or limit is None or not self.first or self._progressed():
            return True
        spent = time.monotonic() - self.started
        # Slurm may give the signal a minute early.
        if spent < 60 * (limit - 1) - self.pack.site.slurm.grace_seconds:
            return True
        directory = RunDirectory(self.pack.site.runs_folder, self.run)
        if (directory / "result.json").exists():
            return True
        why = (
            f"not one step was saved in the whole time of a job, {limit} min: raise max_hours "
            "under [slurm], or the minutes of the recipe's resources"
        )
        directory.write_failure(why, self.pack.token)
        return len(self.pack.runs) > 1

    def _saved(self, run: Run) -> set[Path]:
        """Its checkpoints, and the files of ``training.file_tasks`` that are whole."""
        folder = RunDirectory(self.pack.site.runs_folder, run).path
        return {*folder.glob("checkpoints/step_*"), *folder.glob(f"**/*{CHECKSUM_SUFFIX}")}
