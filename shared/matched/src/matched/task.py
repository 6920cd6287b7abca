"""The contract between the harness and its tasks: context, outcome and progress.

A task is a function ``(Context, config) -> Outcome``. Packages and ``matched.training`` import this
module; they never import the code that executes runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matched.files import atomic_write, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Context:
    """Runtime environment of a task; none of it may change a result.

    Attributes:
        directory: the run directory.
        signature: the run's signature, stored in checkpoints, which other runs refuse to load.
        data: path of every data source of the config that has one, by name.
        needs: directory of every run that this one needs, by name.
        rank: this process; only rank 0 writes files.
        world_size: number of processes.
        local_rank: this process among those of its node: the index of its GPU.
        threads: CPU threads of this process.
        num_workers: data-loading processes for this process; with 0 it loads the data itself.
        checkpoint_steps: checkpoint interval in optimizer steps.
        checkpoint_minutes: checkpoint interval in minutes; whichever interval ends first counts.
        async_checkpoints: write checkpoints of sharded runs in a thread, from a copy in memory.
        shard: shard weights and optimizer state over the processes (FSDP2) instead of keeping a
            copy on each (DDP).
        shard_degree: number of processes that share one copy of the weights; 0 for all.
        check_ownership: raise ``LeaseLostError`` if another process has taken the run over. The
            methods below call it before they write, so that two processes never write to one run
            directory. It does nothing on ranks other than 0, which write no files of the run.
    """

    directory: Path
    signature: str
    data: Mapping[str, Path] = field(default_factory=dict)
    needs: Mapping[str, Path] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    threads: int = 1
    num_workers: int = 0
    checkpoint_steps: int = 500
    checkpoint_minutes: float = 10.0
    async_checkpoints: bool = False
    shard: bool = False
    shard_degree: int = 0
    check_ownership: Callable[[], None] = lambda: None

    def owned_path(self, name: str) -> Path:
        """Check ownership and return the path of ``name``, to be written or deleted right away.

        For writers that take a path; ``atomic_write`` and ``write_json`` cover the other cases.

        Args:
            name: of a file or folder, relative to the run directory.

        Raises:
            LeaseLostError: if another process has taken this run over.
        """
        self.check_ownership()
        return self.directory / name

    @contextmanager
    def atomic_write(self, name: str) -> Iterator[Path]:
        """Check ownership and yield a temporary path, renamed to ``name`` if the block succeeds.

        Raises:
            LeaseLostError: if another process has taken this run over.
        """
        with atomic_write(self.owned_path(name)) as temporary:
            yield temporary

    def write_json(self, name: str, value: Any) -> None:
        """Check ownership and write a JSON file atomically.

        Raises:
            LeaseLostError: if another process has taken this run over.
        """
        write_json(self.owned_path(name), value)

    def write_fingerprint(self, *, weights: str, batches: Sequence[str]) -> None:
        """Write fingerprint.json, which must be equal in both runs of a matched pair.

        Args:
            weights: hash of the initial weights outside the norm layers, or of the weights used.
            batches: hashes of the first batches, or of the other inputs.

        Raises:
            LeaseLostError: if another process has taken this run over.
        """
        self.write_json("fingerprint.json", {"weights": weights, "batches": list(batches)})

    def record_environment(self, **facts: Any) -> None:
        """Check ownership and add facts about this machine to environment.json, on rank 0.

        For what a task chooses by what the machine can run, such as a kernel.

        Args:
            facts: plain values, by name; a name that is in the file already is overwritten.

        Raises:
            LeaseLostError: if another process has taken this run over.
        """
        if self.rank == 0:
            recorded = read_json(self.directory / "environment.json") or {}
            self.write_json("environment.json", {**recorded, **facts})

    def write_progress(self, step: int, steps: int, **more: Any) -> None:
        """Check ownership and report ``step`` of ``steps``, see ``write_progress`` below.

        Raises:
            LeaseLostError: if another process has taken this run over.
        """
        self.check_ownership()
        write_progress(self.directory, step, steps, **more)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a task.

    Attributes:
        metrics: the last evaluation, by metric key; after a divergence, the best one. If one run
            computes several arms of a table, the keys are "arm/key".
        diverged: True if training diverged, which is a result and not a failure.
        steps: optimizer steps done.
        best: the evaluation with the best score, and its step.
        details: anything else worth keeping, in plain values. "picture" is the name of a PNG in
            the run directory, which tables show; "warnings" is a list of sentences, which tables
            print below; "data" is what was in a data source that can be anything, such as the
            name of a folder, which tables print with the source; "hardware" is what a time was
            measured on, which tables print, with a warning if it is not the same for all runs.

    Raises:
        ValueError: for a metric that is not a number (None is one that was not finite), and for
            details of the wrong type that tables show.
    """

    metrics: Mapping[str, float]
    diverged: bool = False
    steps: int
    best: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in {**self.best, **self.metrics}.items():
            if not is_metric_value(value):
                raise ValueError(
                    f"the metric {key} of an outcome is {value!r}; expected a number, such as that "
                    "of tensor.item()"
                )
        if fault := fault_of_details(self.details):
            raise ValueError(f"an outcome has {fault}")


def is_metric_value(value: object) -> bool:
    """Return True for a number, and for None, which stands for one that was not finite."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def fault_of_details(details: object) -> str:
    """Return what is wrong with an outcome's details that tables show; "" if nothing is."""
    if not isinstance(details, Mapping):
        return f"the details {details!r}; expected a dict"
    for key in ("data", "hardware"):
        if not isinstance(details.get(key, ""), str):
            return f"{key} {details[key]!r} in its details; expected text"
    warnings = details.get("warnings", [])
    if not isinstance(warnings, (list, tuple)) or any(not isinstance(w, str) for w in warnings):
        return f"warnings {warnings!r} in its details; expected a list of sentences"
    return ""


def write_progress(directory: Path, step: int, steps: int, **more: Any) -> None:
    """Write progress.json: ``step`` of ``steps``, and anything else that ``status`` may show."""
    write_json(
        directory / "progress.json", {"step": step, "steps": steps, "at": time.time(), **more}
    )
