"""The contract between the harness and its tasks: context, outcome and progress.

A task is a function ``(Context, config) -> Outcome``. Packages and ``matched.training`` import this
module; they never import the code that executes runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matched.files import write_json


@dataclass(frozen=True, kw_only=True)
class Context:
    """The place and the resources that a task runs with; none of it may change a result.

    Attributes:
        directory: the run directory.
        signature: the run's signature. A checkpoint carries it, and other runs refuse to load it.
        data: path of every data source of the config that has one, by name.
        needs: directory of every run that this one needs, by name.
        rank: this process; only rank 0 writes files.
        world_size: number of processes.
        local_rank: this process among those of its node: the index of its GPU.
        threads: CPU threads of this process.
        num_workers: data-loading processes for this process; with 0 it loads the data itself.
        checkpoint_steps: a checkpoint is due after so many optimizer steps, or
        checkpoint_minutes: after so many minutes, whichever comes first.
        shard: shard weights and optimizer state over the processes (FSDP2) instead of keeping a
            copy on each (DDP).
        check_ownership: raises if another process has taken the run over. Call it before writing
            anything that could conflict with what the new owner writes.
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
    shard: bool = False
    check_ownership: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a task.

    Attributes:
        metrics: the last evaluation, by metric key; after a divergence, the best one.
        diverged: True if training diverged, which is a result and not a failure.
        steps: optimizer steps done.
        best: the evaluation with the best score, and its step.
        details: anything else worth keeping, in plain values. "picture" is the name of a PNG in
            the run directory, which tables show; "warnings" is a list of sentences, which tables
            print below.
    """

    metrics: Mapping[str, float]
    diverged: bool = False
    steps: int
    best: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def write_progress(directory: Path, step: int, steps: int, **more: Any) -> None:
    """Write progress.json: ``step`` of ``steps``, and anything else that ``status`` may show."""
    write_json(
        directory / "progress.json", {"step": step, "steps": steps, "at": time.time(), **more}
    )
