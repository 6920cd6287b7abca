"""Jobs: the callable that submitit starts, which computes several runs one after the other."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import submitit
import submitit.helpers

from matched import job_status, signals
from matched.peers import PeerLostError, Peers
from matched.requeue import Requeuer
from matched.run import Run
from matched.run_execution import execute
from matched.signals import Interrupted
from matched.site import Site
from matched.status import ExecutionResult, State
from matched.surroundings import drop_launcher_variables
from matched.table import Resources

log = logging.getLogger("matched")
SUCCESS_TIMEOUT = 3600
"""Seconds to wait for the other processes after this one has finished a run."""
FAILURE_TIMEOUT = 20
"""Seconds to wait for the other processes after a run has failed in this one."""


@dataclass(kw_only=True)
class JobRunner(submitit.helpers.Checkpointable):
    """The callable that submitit pickles: the runs that share one job.

    Attributes:
        resources: of each run, in the order of ``runs``.
        gpus: the GPUs to use, by index or UUID; None keeps those that the job was started with.
        token: identifies the submission, and so distinguishes its failures from earlier ones.
        minutes: time limit of the job; None without one.
        code: the record of ``provenance.record_submission``.
    """

    runs: list[Run]
    resources: list[Resources]
    site: Site
    threads: int
    token: str
    gpus: tuple[str, ...] | None = None
    minutes: int | None = None
    code: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> dict[str, ExecutionResult]:
        """Compute all runs in a job of submitit; see ``compute``."""
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        environment = submitit.JobEnvironment()
        if environment.num_tasks == 1:  # a setup line may also set them
            drop_launcher_variables()
        if environment.cluster == "debug":  # the terminal already shows the runs' progress
            return self.compute("debug", str(os.getpid()))
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        if environment.cluster == "local":
            # The job is over when its controller is killed, so this process must not go on.
            signals.signal_at_parent_exit(signal.SIGTERM)
        if environment.num_tasks > 1:
            # A site whose node names do not resolve, or that has a faster network, sets its own.
            # Processes on this machine meet there, whether its name resolves or not.
            local = "localhost" if environment.cluster == "local" else None
            address = os.environ.get("MASTER_ADDR", local)
            submitit.helpers.TorchDistributedEnvironment().export(
                set_cuda_visible_devices=False, overwrite=True
            )
            os.environ["MASTER_ADDR"] = address or os.environ["MASTER_ADDR"]
        return self.compute(environment.cluster, environment.job_id, environment)

    def compute(
        self, cluster: str, job_id: str, environment: submitit.JobEnvironment | None = None
    ) -> dict[str, ExecutionResult]:
        """Compute all runs in a process whose environment variables are set up already.

        Returns:
            Signature → result of the run.

        Raises:
            SystemExit: if the process got a stop signal, or a process of the job was lost.
        """
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            # Set before torch is imported: more threads than cores are several times slower.
            os.environ[name] = str(self.threads)
        return _JobAttempt(self, cluster, job_id, environment).compute()


class _JobAttempt:
    """One attempt of a job; a requeued job has several."""

    def __init__(
        self,
        runner: JobRunner,
        cluster: str,
        job_id: str,
        environment: submitit.JobEnvironment | None,
    ) -> None:
        self.runner = runner
        folder = runner.site.runs_folder / ".jobs" / job_id
        self.job = job_status.job_record(cluster, job_id, runner.token, folder)
        self.peers = Peers()
        self.requeuer = Requeuer(
            cluster=cluster,
            environment=environment,
            site=runner.site,
            token=runner.token,
            minutes=runner.minutes,
            num_runs=len(runner.runs),
            rank=self.peers.rank,
        )

    def compute(self) -> dict[str, ExecutionResult]:
        results: dict[str, ExecutionResult] = {}
        runs, resources = self.runner.runs, self.runner.resources
        # The last quarter of the grace period is left for requeueing the job.
        grace = 0.75 * self.runner.site.slurm.grace_seconds
        with signals.watch_signals(grace, self.requeuer.stop_overdue):
            try:
                for i, (run, its_resources) in enumerate(zip(runs, resources, strict=True)):
                    is_last = i == len(runs) - 1
                    results[run.signature] = self._compute_run(run, its_resources, is_last)
            except Interrupted:
                self.requeuer.stop(_wait_for_signal())
        self.peers.close()
        return results

    def _compute_run(self, run: Run, resources: Resources, is_last: bool) -> ExecutionResult:
        if signals.stop_signal():
            raise Interrupted
        self.requeuer.begin_run(run)
        try:
            result = execute(
                run,
                self.runner.site,
                self.job,
                self.peers,
                threads=self.runner.threads,
                num_workers=resources.num_workers,
                shard=resources.shard,
                shard_degree=resources.shard_degree,
                code=self.runner.code,
            )
        except PeerLostError as error:
            if signals.stop_signal():
                raise Interrupted from error
            # Failed ranks still reach the barrier; killed ones do not.
            if not self.peers.barrier(run.signature, FAILURE_TIMEOUT):
                self.requeuer.abort_after_lost_process(str(error))
            return ExecutionResult(state=State.FAILED, reason=str(error))
        timeout = SUCCESS_TIMEOUT if result.state.finished else FAILURE_TIMEOUT
        if not self.peers.barrier(run.signature, timeout):
            # Another process is blocked in a collective; only killing the job can unblock it.
            self.requeuer.abort(str(result), requeue=not is_last)
        return result


def _wait_for_signal() -> signal.Signals:
    """Return the stop signal; another process may pass on a stop before the signal arrives."""
    deadline = time.monotonic() + 5
    while (number := signals.stop_signal()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return number or signal.SIGTERM
