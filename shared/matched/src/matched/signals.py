"""Stop signals: recorded immediately, handled after the current step or when the grace period ends.

Slurm sends SIGUSR2 before a time limit and at a preemption, because submitit requests it, and
SIGTERM when somebody cancels the job. A process that is blocked in a collective or a kernel does
not run Python signal handlers, so a separate thread reads the signals and watches the clock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PREEMPTION_SIGNAL = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
"""The signal that submitit requests from Slurm: the same variable and default as submitit's."""
STOP_SIGNALS = (PREEMPTION_SIGNAL, signal.SIGTERM)
PR_SET_PDEATHSIG = 1
"""From Linux's sys/prctl.h."""


class Interrupted(BaseException):
    """The run got a stop signal and has saved a checkpoint.

    Not an ``Exception``, so that no ``except Exception`` mistakes it for a failure of the run.
    """


def signal_at_parent_exit(number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent ends; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


_received: list[signal.Signals] = []


def stop_signal() -> signal.Signals | None:
    """Return the first stop signal that this process got, or None.

    A training loop checks it after every step. Once it is set, all processes of the run must
    save at the same step and raise ``Interrupted``.
    """
    return _received[0] if _received else None


def received_signals() -> list[signal.Signals]:
    """Return all stop signals so far, in order."""
    return list(_received)


@contextmanager
def watch_signals(grace: float, on_overdue: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Record the stop signals that arrive during the block.

    Args:
        grace: seconds from the first signal within which the run must save and stop.
        on_overdue: called with that signal, in another thread, if the block has not ended by then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    handlers = {number: signal.signal(number, _ignore) for number in STOP_SIGNALS}
    previous_wakeup_fd = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(readable, grace, on_overdue), daemon=True)
    watcher.start()
    # The signal was blocked when the process started: see submission._python_command.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_wakeup_fd)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(writable, b"\0")  # ends the thread: closing does not if a child has the pipe open
        watcher.join()
        os.close(writable)
        _received.clear()


def _ignore(number: int, frame: object) -> None:
    """Do nothing: the thread of ``watch_signals`` has recorded the signal already."""


def _watch(readable: int, grace: float, on_overdue: Callable[[signal.Signals], None]) -> None:
    timer: threading.Timer | None = None
    with os.fdopen(readable, "rb", buffering=0) as pipe:
        while number := pipe.read(1)[0]:
            if number in STOP_SIGNALS:
                _received.append(signal.Signals(number))
                if timer is None:
                    timer = threading.Timer(grace, on_overdue, [_received[0]])
                    timer.daemon = True
                    timer.start()
    if timer is not None:
        timer.cancel()


def _reset_in_child() -> None:
    """Detach a forked data-loading worker from its parent's signal pipe and handlers."""
    if signal.getsignal(signal.SIGTERM) is _ignore:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(PREEMPTION_SIGNAL, signal.SIG_IGN)


os.register_at_fork(after_in_child=_reset_in_child)
