"""Signals that ask a job to stop: noted at once, obeyed at a step boundary or when time is up.

Slurm sends SIGUSR2 before a time limit and at a preemption (submitit asks it to), and SIGTERM
where somebody cancels the job. A process that hangs in a collective or in a kernel runs no Python
signal handler, so a thread of its own reads the signals and watches the clock.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import submitit

PREEMPTION_SIGNAL = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
SIGNALS = (PREEMPTION_SIGNAL, signal.SIGTERM)


class Interrupted(BaseException):
    """The run was asked to stop and has saved what it had.

    No ``Exception``, so that nothing on the way takes it for a failure of the run.
    """


_received: list[signal.Signals] = []


def stop_signal() -> signal.Signals | None:
    """The signal by which this process was asked to stop, or None.

    A loop looks at it after every step; when it is set, all processes of the run have to save at
    the same step and raise ``Interrupted``.
    """
    return _received[0] if _received else None


def received_signals() -> list[signal.Signals]:
    """Every signal so far, in order."""
    return list(_received)


@contextmanager
def watch_signals(grace: float, overdue: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Note the signals that arrive during the block.

    Args:
        grace: seconds that the run has, after the first signal, to save and to stop.
        overdue: called in another thread when they have passed and the block has not ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread; whoever it is takes care of them
        return
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = {number: signal.signal(number, _ignored) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(readable, grace, overdue), daemon=True)
    watcher.start()
    # A signal that came while the process was starting has waited for this: see launch._python.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writable, b"\0")  # ends the thread; a child may keep the pipe open
        watcher.join()
        os.close(writable)
        _received.clear()


def _ignored(number: int, frame: object) -> None:
    """The signal has been noted by the thread already."""


def _watch(readable: int, grace: float, overdue: Callable[[signal.Signals], None]) -> None:
    clock: threading.Timer | None = None
    with os.fdopen(readable, "rb", buffering=0) as pipe:
        while number := pipe.read(1)[0]:
            if number in SIGNALS:
                _received.append(signal.Signals(number))
                if clock is None:
                    clock = threading.Timer(grace, overdue, [_received[0]])
                    clock.daemon = True
                    clock.start()
    if clock is not None:
        clock.cancel()


def _in_child() -> None:
    """A forked data-loading worker neither tells its parent of its own signals nor keeps them."""
    if signal.getsignal(signal.SIGTERM) is _ignored:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(PREEMPTION_SIGNAL, signal.SIG_IGN)


os.register_at_fork(after_in_child=_in_child)
