"""A private Slurm cluster: the real daemons, four nodes on this machine, all files in one folder.

It needs neither root nor configuration nor fixed ports, and leaves nothing running.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue")
NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
"""A node's name has to resolve to the node; addresses do so without entries in /etc/hosts."""
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Folders of the daemons, which may not be on PATH."""

CONFIG = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its old credential has expired: 120 s by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none

# The nodes claim more cores and memory than their share of this machine.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
KillWait=2
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# Refuse a job that its partition never accepts, as a cluster with accounting does.
EnforcePartLimits=ALL

PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL PriorityTier=10
PartitionName=closed Nodes=ALL AllowAccounts=nobody
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=10000"


class Cluster:
    """A cluster of four nodes, each of them a slurmd with 4 cores and 10 GB on any machine.

    Its partitions are ``main``, ``urgent``, whose jobs preempt those of main, and ``closed``, which
    accepts no job.

    Attributes:
        folder: all files that the daemons read and write.
        environment: environment variables with which programs find this cluster.
        daemons: name → process; a slurmd has the name of its node.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The tests may run in a job of another cluster, or its user may have set options.
        foreign = re.compile("S(LURM|BATCH|CANCEL|CONTROL|INFO|QUEUE|RUN)")
        inherited = {k: v for k, v in os.environ.items() if not foreign.match(k)}
        self.environment = {**inherited, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def obstacle() -> str:
        """Return why no cluster can be started on this machine; "" if one can."""
        missing = [name for name in PROGRAMS if _find_program(name) is None]
        if missing:
            return (
                f"{', '.join(missing)} not found: `make test-slurm` installs them as root "
                "(on Debian: the packages slurm-wlm and munge)"
            )
        try:
            _user()
        except KeyError:
            return "this user has no name, which Slurm needs"
        return ""

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all daemons; return when all nodes are idle.

        Raises:
            RuntimeError: with the logs, if a daemon exits or the nodes do not become idle.
        """
        self._configure()
        try:
            self._start_munge()
            self._start("slurmctld", "slurmctld", "-D", "-c")
            for name in NODES:
                self._start_node(name)
            self.wait_until(lambda: self._idle(*NODES), seconds=20)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every daemon and every process of every job.

        Raises:
            RuntimeError: if one of them is still running.
        """
        for name in ("slurmctld", *NODES, "munged"):
            self._end(name)
        self._kill(NODES)

    def run(self, *command: str, seconds: float = 60) -> str:
        """Run a program in this cluster's environment and return its standard output.

        Raises:
            RuntimeError: if it fails, with its standard error.
        """
        process = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds
        )
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {process.stderr.strip()}")
        return process.stdout

    def submit(self, script: str, *options: str) -> str:
        """Submit a batch job of these shell lines; return its id."""
        files = (f"--chdir={self.folder}", "--output=job.%j.txt", "--open-mode=append")
        return self.run("sbatch", "--parsable", *files, *options, f"--wrap={script}").strip()

    def output(self, job: str) -> str:
        """Return what a job of ``submit`` has printed in all its starts."""
        path = self.folder / f"job.{job}.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def queue(self) -> dict[str, str]:
        """Map job ids (of array tasks: "7_3") to Slurm's states.

        Finished jobs are included: Slurm remembers them for five minutes.
        """
        states = {}
        options = ("--noheader", "--array", "--states=all", "--format=%F_%K %A %T")
        for line in self.run("squeue", *options).splitlines():
            task, job, state = line.split()
            states[job if task.endswith("_N/A") else task] = state
        return states

    def job(self, job: str) -> dict[str, str]:
        """Return Slurm's fields of a job: "Restarts", "Reason", "NodeList", …"""
        text = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait_until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Poll until the condition holds.

        Raises:
            RuntimeError: if it does not in time, or a daemon exits; with Slurm's states and logs.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if ended := self._ended():
                raise RuntimeError(f"daemons exited: {', '.join(ended)}\n{self._report()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited more than {seconds:g} s\n{self._report()}")
            time.sleep(0.1)

    def _ended(self) -> list[str]:
        return [name for name, daemon in self.daemons.items() if daemon.poll() is not None]

    def _report(self) -> str:
        """Return the queue, the nodes and the last lines of the logs."""
        parts = []
        for command in (("squeue", "--states=all"), ("sinfo", "--Node", "--long")):
            try:
                parts.append(self.run(*command, seconds=5))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                parts.append(str(error))
        # Until a daemon has read the path of its log, it writes to standard error.
        outs = [self.folder / f"{name}.out" for name in self._ended()]
        for path in [*outs, *sorted(self.folder.glob("*.log"))]:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            parts += [f"== {path.name}", *lines[-10:]]
        return "\n".join(parts)

    def fail_node(self, name: str) -> None:
        """End a node as a power cut does, and tell Slurm, which would need minutes to notice.

        Slurm requeues the batch jobs of the node.
        """
        self._end(name)
        self._kill([name])
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=failed")

    def restore_node(self, name: str) -> None:
        """Start a failed node again; return when it is idle."""
        self._start_node(name)
        self.wait_until(lambda: self._idle(name))

    def clear(self) -> None:
        """Cancel every job and restore every node; return when all nodes are idle."""
        for name in NODES:
            if name not in self.daemons:
                self._start_node(name)

        def cleared() -> bool:
            # Repeated, because a job that is just being requeued may be missed.
            self.run("scancel", f"--user={_user()}")
            self._kill(NODES)  # a job that ignores SIGTERM would live for some seconds
            return not self.run("squeue", "--noheader") and self._idle(*NODES)

        self.wait_until(cleared)

    def processes(self, *nodes: str) -> list[int]:
        """Return the processes of these nodes, or of all: slurmd, daemons of job steps, and jobs.

        Slurm sets SLURMD_NODENAME for the processes of jobs; ``_start_node`` sets it for slurmd,
        from which the daemons of job steps inherit it.
        """
        conf = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        names = {f"SLURMD_NODENAME={name}".encode() for name in nodes or NODES}
        pids = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:  # the process has exited, or belongs to another user
                continue
            if conf in variables and not names.isdisjoint(variables):
                pids.append(int(path.parent.name))
        return pids

    def _configure(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        port, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        lines = [CONFIG.format(host=host, port=port, user=_user(), folder=self.folder)]
        lines += [NODE.format(name=n, port=p) for n, p in zip(NODES, ports, strict=True)]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        files = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        # --force, because munged refuses a socket in a folder that not everybody can enter.
        self._start("munged", "munged", "--foreground", "--force", *options)
        self.wait_until((self.folder / "munge.socket").exists)

    def _start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name, SLURMD_NODENAME=name)

    def _start(self, name: str, program: str, *arguments: str, **variables: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [_find_program(program) or program, *arguments],
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C has to reach only the tests, which then stop the cluster.
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        if name not in NODES:  # slurmd would wait for its jobs
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        daemon.kill()
        daemon.wait()

    def _kill(self, nodes: Sequence[str]) -> None:
        """Kill all processes that slurmd has started on these nodes.

        Raises:
            RuntimeError: if some are still running after ten seconds.
        """
        deadline = time.monotonic() + 10
        daemons = {daemon.pid for daemon in self.daemons.values()}
        while remaining := set(self.processes(*nodes)) - daemons:
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {remaining} cannot be killed")
            # Stop all of them first: the daemon of a step must not report how its tasks ended.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in remaining:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.02)

    def _idle(self, *names: str) -> bool:
        # sinfo fails until the controller listens.
        command = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
        process = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        states = dict(line.split() for line in process.stdout.splitlines())
        return all(states.get(name) == "idle" for name in names)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _find_program(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *SYSTEM_FOLDERS]))


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, below those that the kernel assigns and submitit uses."""
    ports: list[int] = []
    for port in random.sample(range(10000, 20000), 10000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("there are not enough free ports")
