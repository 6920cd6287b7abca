"""Scripts in other processes, such as several that train together as the processes of a job do.

The imports of a script take seconds. The processes that import it are therefore kept: each call is
computed by forks of them, which start at ``__main__``. They share no imports with each other, so
they hash and order differently, as the processes of a job do.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

TIMEOUT = 120
"""Seconds that a call may take."""

_importers = {}
"""(script, number of processes) → the processes that imported the script; those of one script."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(script, *arguments, world_size=2, environment=None):
    """Run a script in ``world_size`` processes, and check that all exit with 0.

    Returns:
        What each process printed, on both streams.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    deadline = time.monotonic() + TIMEOUT
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(world_size)]
        importers = _start(str(script), world_size)
        for rank, (importer, log) in enumerate(zip(importers, logs, strict=True)):
            call = {
                "arguments": list(map(str, arguments)),
                "environment": {
                    **os.environ,
                    **address,
                    **_variables(rank, world_size),
                    **(environment or {}),
                },
                "folder": os.getcwd(),
                "log": str(log),
            }
            # A process whose imports failed reads nothing, and _exit_code says so.
            with suppress(BrokenPipeError):
                importer.stdin.write(json.dumps(call) + "\n")
                importer.stdin.flush()
        codes = [_exit_code(importer, deadline) for importer in importers]
        if any(codes):
            _end()
        outputs = [log.read_text() if log.exists() else "not started" for log in logs]
    assert not any(codes), "\n".join([f"exit codes {codes}", *outputs])
    return outputs


def run_code(code, **environment):
    """Return what code prints in a process that has imported torch only, with further variables."""
    script = Path(__file__).with_name("torch_process.py")
    (output,) = run(script, code, world_size=1, environment=environment)
    return output


def _variables(rank, world_size):
    return {"RANK": str(rank), "WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}


def _start(script, world_size):
    """Return the processes that have imported the script, which are started if there are none."""
    if (script, world_size) not in _importers:
        _end()
        _importers[script, world_size] = [
            subprocess.Popen(
                [sys.executable, __file__, script],
                env=os.environ | _variables(rank, world_size),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for rank in range(world_size)
        ]
    return _importers[script, world_size]


def _exit_code(importer, deadline):
    """Return the exit code of a call, or words if it takes too long or its imports fail."""
    answered, _, _ = select.select([importer.stdout], [], [], max(0, deadline - time.monotonic()))
    if not answered:
        return f"none within {TIMEOUT} s"
    line = importer.stdout.readline()
    return int(line) if line else "none, the imports failed"


def _end():
    """End the processes with their forks."""
    for importer in (importer for group in _importers.values() for importer in group):
        os.killpg(importer.pid, signal.SIGKILL)
        importer.communicate()
    _importers.clear()


def _serve(script):
    """Import a script, and run it in a fork for each call on stdin."""
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script)
    gc.freeze()  # a collection in a fork would copy the pages of all objects
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if not child:
            _become(script, **call)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(script, arguments, environment, folder, log):
    """Run the script in this process as the interpreter would."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # taking down the imported modules takes longer than most scripts


if __name__ == "__main__":
    _serve(sys.argv[1])
