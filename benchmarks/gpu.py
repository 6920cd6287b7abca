"""GPU benchmark: correctness and speed of all GPU paths on one card, in a given time.

    python benchmarks/gpu.py [--minutes 9] [--out FOLDER]   # measure what is not measured yet
    python benchmarks/gpu.py --device cpu --minutes 2       # rehearsal: reduced, Triton interpreted
    python benchmarks/gpu.py --report                       # tables of docs/GPU.md from the CSVs

It needs a checkout with its sources on PYTHONPATH, torch, Triton and timm, and no network;
docs/GPU.md describes the preparation. The sections run in order, each in its own process with its
own time limit, so neither a crash nor a hang of one stops the next. Each part of a section is
written when it is whole; another call with the same output folder continues with the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import measuring
from gpu_sections import SECTIONS, Section, preparation, progress, summary, worker

DEFAULT_OUT = {"cuda": measuring.RESULTS / "gpu", "cpu": measuring.RESULTS.parents[1] / "build/gpu"}
MAX_PROCESSES = 6  # of one section: each but the first follows a crash or a hang
MAX_PARALLEL = 8  # processes at the same time
FILLING = 0.4  # of a section's time, for the compilers' caches
GRACE = 10  # seconds after its limit in which a section's process may still end by itself


def measure(device: str, folder: Path, minutes: float, names: list[str]) -> None:
    """Run the sections one after the other; time that one leaves unused goes to later ones."""
    end = time.time() + 60 * minutes
    sections = [section for section in SECTIONS if section.name in names]
    environment = progress.environment(device)
    for number, section in enumerate(sections):
        left = end - time.time()
        if left <= 0:
            print(f"{section.title}: no time was left", flush=True)
            continue
        share = section.share / sum(other.share for other in sections[number:])
        print(f"{section.title} (at most {left * share:.0f} s)", flush=True)
        state = progress.Progress(folder, section.name, environment)
        run_section(section, state, device, time.time() + left * share)


def run_section(section: Section, state: progress.Progress, device: str, deadline: float) -> None:
    """Run a section in one process, or in several on a card if it measures no times."""
    several = min(MAX_PARALLEL, os.cpu_count() or 1) if device == "cuda" else 1
    if section.fills_caches and several > 1:
        until = time.time() + FILLING * (deadline - time.time())

        def fill(number: int) -> None:
            command = _command(section, state, device, number, several)
            _wait([*command, "--fill-caches"], until, grace=0)

        _in_threads(fill, several)
    processes = several if section.is_parallel else 1

    def run(number: int) -> None:
        own = dataclasses.replace(state, process=number)
        _run_parts(section, own, device, processes, deadline)

    _in_threads(run, processes)


def _in_threads(run: Callable[[int], None], count: int) -> None:
    """Call a function with the numbers from 0 to `count` - 1 at the same time."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))


def _command(
    section: Section, state: progress.Progress, device: str, process: int, processes: int
) -> list[str]:
    command = [sys.executable, __file__, "--worker", section.name, "--device", device]
    command += ["--out", str(state.folder)]
    return [*command, "--process", str(process), "--processes", str(processes)]


def _run_parts(
    section: Section, state: progress.Progress, device: str, processes: int, deadline: float
) -> None:
    """Run parts of a section in a process, and in another one if that crashes or hangs."""
    command = _command(section, state, device, state.process, processes)
    command += ["--deadline", str(deadline)]
    for _ in range(MAX_PROCESSES):
        ended = _wait([*command, "--skip", *state.failed_in_this_call()], deadline)
        if ended == 0:
            state.clear_start()
            return
        part = state.running()
        if part is not None:
            if time.time() >= deadline - 1:
                ended = "stopped: the time of its section ran out"
            print(f"  {part}: {ended}", flush=True)
            state.fail(part, str(ended))
        elif ended != worker.BROKEN_CONTEXT:
            print(f"  the section {section.name} did not start: {ended}", flush=True)
            state.fail_start(str(ended))
            return
        if time.time() >= deadline:
            return


def _wait(command: list[str], deadline: float, grace: float = GRACE) -> int | str:
    """Run a process until a time; return 0, BROKEN_CONTEXT, or a sentence about its end."""
    # A group and not a session: the process must end with the session of a killed call.
    process = subprocess.Popen(command, process_group=0)
    try:
        code = process.wait(max(1, deadline - time.time()) + grace)
    except subprocess.TimeoutExpired:
        return "stopped: the time of its section ran out"
    finally:
        _kill_group(process)
    if code in (0, worker.BROKEN_CONTEXT):
        return code
    if code < 0:
        return f"the process ended with signal {signal.Signals(-code).name}"
    if code == 1:  # also of faulthandler, which ends a part at its limit
        return "exceeded its time limit, or its process ended with exit code 1"
    return f"the process ended with exit code {code}"


def _kill_group(process: subprocess.Popen) -> None:
    """Kill a process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="write the tables of docs/GPU.md")
    parser.add_argument("--device", choices=DEFAULT_OUT, default="cuda")
    parser.add_argument("--minutes", type=_minutes, default=9.0, help="(default: 9)")
    parser.add_argument(
        "--out", type=Path, help="(default: benchmarks/results/gpu, or build/gpu for a rehearsal)"
    )
    names = [section.name for section in SECTIONS]
    parser.add_argument("--section", nargs="+", choices=names, default=names, help="(default: all)")
    parser.add_argument("--worker", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--skip", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--fill-caches", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    args.out = args.out or DEFAULT_OUT[args.device]
    return args


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0
    if not 0 < minutes < 1e4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of minutes")
    return minutes


def main() -> None:
    args = parse_args()
    if args.device == "cpu":
        measuring.interpret_triton()
    if args.worker:
        if args.processes > 1:  # they are as many as the cores, and each would start as many
            os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
        share = worker.Slice(process=args.process, processes=args.processes)
        if args.fill_caches:
            worker.fill_caches(args.worker, args.device, args.out, share)
        else:
            worker.run_section(args.worker, args.device, args.out, args.deadline, args.skip, share)
        return
    if args.report:
        summary.write_tables(args.out)
        return
    if (problem := preparation.problem(args.device)) is not None:
        raise SystemExit(f"error: {problem}.")
    measure(args.device, args.out, args.minutes, args.section)
    print(summary.text(args.device, args.out))


if __name__ == "__main__":
    main()
