"""watch_signals: recorded stop signals, the callback after the grace period, cleaning up."""

import os
import signal
import threading
import time

import pytest

from matched import signals
from matched.signals import PREEMPTION_SIGNAL, stop_signal, watch_signals

BOTH = pytest.mark.parametrize("number", signals.STOP_SIGNALS)


def send(number):
    """Send a signal to this process and wait until it is noted."""
    count = len(signals.received_signals())
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 10
    while len(signals.received_signals()) == count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@BOTH
def test_stop_signal_is_the_first_signal(number):
    assert stop_signal() is None
    with watch_signals(600, pytest.fail):
        send(number)
        send(signal.SIGTERM)
        assert stop_signal() == number
        assert signals.received_signals() == [number, signal.SIGTERM]
    assert stop_signal() is None


@BOTH
def test_watch_signals_calls_on_overdue_after_the_grace_period(number):
    overdue = threading.Event()
    received = []

    def on_overdue(number):
        received.append(number)
        overdue.set()

    with watch_signals(0.01, on_overdue):
        send(number)
        assert overdue.wait(10)
    assert received == [number]


def test_grace_period_lasts_from_first_signal_to_end_of_block(monkeypatch):
    timers = []

    class Timer:
        def __init__(self, *arguments):
            timers.append([*arguments, "made"])

        def start(self):
            timers[-1][-1] = "started"

        def cancel(self):
            timers[-1][-1] = "cancelled"

    monkeypatch.setattr(signals.threading, "Timer", Timer)
    with watch_signals(600, pytest.fail):
        send(PREEMPTION_SIGNAL)
        send(signal.SIGTERM)
        assert timers == [[600, pytest.fail, [PREEMPTION_SIGNAL], "started"]]
    assert [timer[-1] for timer in timers] == ["cancelled"]


def test_other_signals_are_not_recorded():
    handled = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    try:
        with watch_signals(600, pytest.fail):
            os.kill(os.getpid(), signal.SIGUSR1)
            send(PREEMPTION_SIGNAL)
            assert signals.received_signals() == [PREEMPTION_SIGNAL]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled == [signal.SIGUSR1]


def test_watch_signals_restores_the_previous_handlers():
    def previous(number, frame):
        """A handler that other code has installed."""

    original = {number: signal.signal(number, previous) for number in signals.STOP_SIGNALS}
    with watch_signals(600, pytest.fail):
        send(PREEMPTION_SIGNAL)
    restored = [signal.signal(number, handler) for number, handler in original.items()]
    assert restored == [previous, previous]


def test_watch_signals_leaves_no_file_open():
    before = len(os.listdir("/proc/self/fd"))
    with watch_signals(600, pytest.fail):
        send(PREEMPTION_SIGNAL)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_watch_signals_in_another_thread_does_nothing():
    handlers = []

    def enter():
        with watch_signals(600, pytest.fail):
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_forked_child_has_default_handlers():
    """A data-loading worker can be terminated, and ignores the preemption of its parent."""
    with watch_signals(600, pytest.fail):
        child = os.fork()
        if child == 0:
            default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            ignored = signal.getsignal(PREEMPTION_SIGNAL) == signal.SIG_IGN
            os._exit(0 if default and ignored else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert stop_signal() is None
