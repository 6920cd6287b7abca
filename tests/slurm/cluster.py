"""A Slurm of one's own: the real daemons, four nodes on this machine, everything in one folder.

It needs no root, no configuration and no free port of a certain number, and leaves nothing behind.
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
"""As on a real cluster, a node's name has to resolve to the node: these do without /etc/hosts."""
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where the daemons lie, and where PATH need not lead."""

CONFIG = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is queued again waits until its old credential has expired: 120 s by default.
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

# The nodes have more cores and memory than their share of this machine.
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
# A job that its partition will never take is refused, as where Slurm knows the accounts.
EnforcePartLimits=ALL

PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL PriorityTier=10
PartitionName=closed Nodes=ALL AllowAccounts=nobody
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=10000"


class Cluster:
    """Partitions: ``main``, ``urgent``, whose jobs preempt those of main, and ``closed`` to all.

    A node is a slurmd. Every node has 4 cores and 10 GB to give away, whatever this machine has.

    Attributes:
        folder: everything that the daemons read and write.
        environment: for programs that are to find this cluster.
        daemons: name → process; a node's name is that of its slurmd.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The tests may be a job of another cluster, or its user may have options set.
        others = re.compile("S(LURM|BATCH|CANCEL|CONTROL|INFO|QUEUE|RUN)")
        inherited = {k: v for k, v in os.environ.items() if not others.match(k)}
        self.environment = {**inherited, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def obstacle() -> str:
        """Why there can be no cluster here; "" if there can."""
        missing = [name for name in PROGRAMS if _found(name) is None]
        if missing:
            return (
                f"no {', '.join(missing)} here: `make test-slurm` installs them as root "
                "(on Debian: the packages slurm-wlm and munge)"
            )
        try:
            _user()
        except KeyError:
            return "this user has no name, and Slurm asks for one"
        return ""

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when all nodes are idle.

        Raises:
            RuntimeError: with the logs, if a daemon gives up or the nodes do not come up.
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
            RuntimeError: if one of them is still there.
        """
        for name in ("slurmctld", *NODES, "munged"):
            self._end(name)
        self._kill(NODES)

    def run(self, *command: str, seconds: float = 60) -> str:
        """What a program that finds this cluster prints on standard output.

        Raises:
            RuntimeError: with standard error, if it fails.
        """
        answer = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds
        )
        if answer.returncode:
            raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")
        return answer.stdout

    def submit(self, script: str, *options: str) -> str:
        """Hand a batch job of these shell lines to sbatch; its id."""
        where = (f"--chdir={self.folder}", "--output=job.%j.txt", "--open-mode=append")
        return self.run("sbatch", "--parsable", *where, *options, f"--wrap={script}").strip()

    def output(self, job: str) -> str:
        """What a job that ``submit`` submitted has printed, in all its starts."""
        path = self.folder / f"job.{job}.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def queue(self) -> dict[str, str]:
        """Job id (array tasks as "7_3") → Slurm's state.

        Jobs that are over are in it too: Slurm remembers them for five minutes.
        """
        found = {}
        options = ("--noheader", "--array", "--states=all", "--format=%F_%K %A %T")
        for line in self.run("squeue", *options).splitlines():
            task, job, state = line.split()
            found[job if task.endswith("_N/A") else task] = state
        return found

    def job(self, job: str) -> dict[str, str]:
        """What Slurm says of a job: "Restarts", "Reason", "NodeList", …"""
        text = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait_until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Ask again and again until the condition holds.

        Raises:
            RuntimeError: with what Slurm shows and logs, if it does not or a daemon has ended.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if ended := self._ended():
                raise RuntimeError(f"ended: {', '.join(ended)}\n{self._report()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {seconds:g} s in vain\n{self._report()}")
            time.sleep(0.1)

    def _ended(self) -> list[str]:
        return [name for name, daemon in self.daemons.items() if daemon.poll() is not None]

    def _report(self) -> str:
        """The queue, the nodes and the ends of the logs."""
        shown = []
        for command in (("squeue", "--states=all"), ("sinfo", "--Node", "--long")):
            try:
                shown.append(self.run(*command, seconds=5))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                shown.append(str(error))
        # What a daemon says before it has read where its log is goes to standard error.
        outs = [self.folder / f"{name}.out" for name in self._ended()]
        for path in [*outs, *sorted(self.folder.glob("*.log"))]:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            shown += [f"== {path.name}", *lines[-10:]]
        return "\n".join(shown)

    def fail_node(self, name: str) -> None:
        """End a node as a power cut does, and let Slurm know, which would need minutes to notice.

        Batch jobs that it worked on are queued again.
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
            # Again and again: a job that is being queued again may slip through.
            self.run("scancel", f"--user={_user()}")
            self._kill(NODES)  # one that takes no notice would have seconds to live
            return not self.run("squeue", "--noheader") and self._idle(*NODES)

        self.wait_until(cleared)

    def processes(self, *nodes: str) -> list[int]:
        """Processes of these nodes, or of all: slurmd, the daemons of job steps, and the jobs.

        Slurm tells a job's processes their node by a variable, and its slurmd is given the same
        one here, which the daemons of job steps inherit.
        """
        conf = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        names = {f"SLURMD_NODENAME={name}".encode() for name in nodes or NODES}
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:  # it has ended, or is another user's
                continue
            if conf in variables and not names.isdisjoint(variables):
                found.append(int(path.parent.name))
        return found

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
        # It wants its socket to be within everybody's reach; here it is for one user.
        self._start("munged", "munged", "--foreground", "--force", *options)
        self.wait_until((self.folder / "munge.socket").exists)

    def _start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name, SLURMD_NODENAME=name)

    def _start(self, name: str, program: str, *arguments: str, **variables: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [_found(program) or program, *arguments],
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C is for the tests, which then stop the cluster.
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        if name not in NODES:  # slurmd would wait for what it has begun
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        daemon.kill()
        daemon.wait()

    def _kill(self, nodes: Sequence[str]) -> None:
        """End whatever slurmd has started on these nodes.

        Raises:
            RuntimeError: if some of it is there after some seconds.
        """
        deadline = time.monotonic() + 10
        daemons = {daemon.pid for daemon in self.daemons.values()}
        while left := set(self.processes(*nodes)) - daemons:
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {left} cannot be killed")
            # All at once: the daemon of a step must not live to report how its tasks ended.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.02)

    def _idle(self, *names: str) -> bool:
        # Before the controller listens, sinfo fails.
        command = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
        answer = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        states = dict(line.split() for line in answer.stdout.splitlines())
        return all(states.get(name) == "idle" for name in names)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _found(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *SYSTEM_FOLDERS]))


def _free_ports(count: int) -> list[int]:
    """Free now, and below those that the kernel gives to anybody and submitit to its jobs."""
    found: list[int] = []
    for port in random.sample(range(10000, 20000), 10000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("there are no free ports")
