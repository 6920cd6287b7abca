"""Process tree of a training script: start, output, and a stop that ends all descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from dyt_upstream.runner_options import RUNNER, die_with_parent
from matched import signals
from matched.signals import Interrupted
from matched.task import Context

POLL_SECONDS = 0.2
STOP_SECONDS = 10.0
"""Seconds between the request to end and the kill."""
MAX_LINES = 200_000
"""Printed lines that are kept for parsers."""


def _per_node(processes: int) -> int:
    """Return the number of the script's processes on each node of this job."""
    return min(processes, int(os.environ.get("LOCAL_WORLD_SIZE", str(processes))))


def starts_processes(context: Context, processes: int) -> bool:
    """True in the process that starts those of the script on its node."""
    node = context.rank // int(os.environ.get("LOCAL_WORLD_SIZE", str(context.world_size)))
    return context.local_rank == 0 and node * _per_node(processes) < processes


def runner_command(specification: Path, processes: int, *, torchrun: bool) -> list[str]:
    """Return the command that starts the script in all its processes on this node.

    On several nodes, each has one torchrun. They meet at the first node of the job, whose name
    submitit reads from SLURM_JOB_NODELIST into MASTER_ADDR. Nodes are numbered as in the job, and
    not by torchrun in the order in which they arrive: the first one reads what rank 0 prints.

    Raises:
        ValueError: if the processes do not fill their nodes.
    """
    if processes == 1 and not torchrun:
        return [sys.executable, "-m", RUNNER, str(specification)]
    local = _per_node(processes)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={local}"]
    if processes == local:
        command += ["--standalone"]  # at a free port
    elif processes % local:
        raise ValueError(
            f"{processes} processes of the script do not fill nodes of {local}; choose another "
            "number of processes, or of gpus_per_node in site.toml"
        )
    else:
        # The job's own store is at MASTER_PORT.
        port = int(os.environ["MASTER_PORT"]) + 1
        node = int(os.environ["RANK"]) // local
        command += [f"--nnodes={processes // local}", f"--node-rank={node}"]
        command += [f"--master-addr={os.environ['MASTER_ADDR']}", f"--master-port={port}"]
    return [*command, "-m", RUNNER, str(specification)]


class ScriptProcess:
    """A running script, its descendants, and what it prints.

    Args:
        command: from ``runner_command``.
        folder: the working directory.
        environment: variables in addition to this process's own, without those of its launcher.
        on_line: called with each printed line, in another thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._reading = threading.Lock()
        self._on_line = on_line
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # one process group, which can be ended as a whole
            preexec_fn=die_with_parent,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:  # a progress bar's carriage returns end lines too
            if text := line.rstrip():
                with self._reading:
                    self._lines.append(text)
                self._on_line(text)

    def lines(self) -> list[str]:
        """Return the last lines that were printed so far."""
        with self._reading:
            return list(self._lines)

    def wait(self, on_poll: Callable[[], None]) -> int:
        """Return the exit status; end all processes of the script before any exception leaves.

        Args:
            on_poll: called several times per second.

        Raises:
            Interrupted: if this process gets a stop signal.
        """
        try:
            while self._process.poll() is None:
                if signals.stop_signal():
                    raise Interrupted
                on_poll()
                time.sleep(POLL_SECONDS)
            return self._process.returncode
        finally:
            self.stop()
            self._reader.join(STOP_SECONDS)

    def stop(self) -> None:
        """End the script and everything it started, first by SIGTERM, then by SIGKILL."""
        deadline = time.monotonic() + STOP_SECONDS
        if self._send(signal.SIGTERM):
            while time.monotonic() < deadline and self._send(0):
                self._process.poll()  # otherwise it stays a zombie, which a signal still reaches
                time.sleep(0.05)
            self._send(signal.SIGKILL)
        self._process.wait()

    def _send(self, number: int) -> bool:
        """Send a signal to the process group; return False if nothing is left of it."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True
