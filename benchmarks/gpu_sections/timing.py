"""Times of calls on the card, or of the same calls on a CPU in a rehearsal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import layers
import measuring
import torch

Call = Callable[[], object]
fills_caches = False  # True in a process that runs the calls for the compilers' caches only


def clock(device: str) -> Callable[[layers.TimedCall], float]:
    """Return the timer of `layers.measure` for a device."""
    return layers.CudaClock() if device == "cuda" else layers.cpu_seconds


def microseconds(calls: dict[str, Call], device: str, rounds: int) -> dict[str, list[float]]:
    """Return the µs of each call in each round, in a random order for each round."""
    timed = {name: _timed_call(call) for name, call in calls.items()}
    rounds = number_of_rounds(rounds)
    warm_up = layers.WARM_UP if rounds > 1 else 0  # the times of a rehearsal mean nothing
    times = layers.measure(timed, rounds, clock(device), warm_up)
    return {name: [1e6 * value for value in values] for name, values in times.items()}


def number_of_rounds(rounds: int) -> int:
    """Return a number of rounds, or one if the times are not used."""
    return 1 if fills_caches else rounds


def _timed_call(call: Call) -> layers.TimedCall:
    return layers.TimedCall(layers.no_preparation, lambda _: call())


def python_microseconds(call: Call, calls: int, rounds: int = 15) -> float:
    """Return the CPU time that this process needs for a call, in µs: the median of some rounds.

    CPU time, because other processes take no part of it. Kernels that the calls launch run
    meanwhile.
    """
    for _ in range(3):
        call()
    values = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(calls):
            call()
        values.append(1e6 * (time.process_time() - started) / calls)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
    return measuring.percentiles(values)[1]


def statistics(name: str, values: list[float], form: str = "{:.2f}") -> dict[str, str]:
    """Return the columns NAME_p10, NAME_median and NAME_p90."""
    return layers.percentile_columns(name, values, form)


def those_that_run(calls: dict[str, Call]) -> dict[str, Call]:
    """Return the calls without those that fail; for candidates, which must not stop the others."""
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # Triton's errors have no common class
            print(f"  {name} is left out: {type(error).__name__}: {error}"[:300], flush=True)
        else:
            found[name] = call
    return found


def launches(call: Call, device: str) -> int | str:
    """Return the number of kernels of a call; an empty string on a CPU or without a profiler."""
    if device == "cpu":
        return ""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        return count_kernels(profile.events() or ()) or ""
    except (RuntimeError, AssertionError) as error:  # some virtual machines refuse it
        print(f"the kernels are not counted: {error}", flush=True)
        return ""


def count_kernels(events: Iterable[Any]) -> int:
    """Return the number of kernels among a profiler's events; copies and fills are not counted."""
    return sum(
        event.device_type == torch.autograd.DeviceType.CUDA
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset"))
        for event in events
    )
