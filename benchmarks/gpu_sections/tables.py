"""Runs of tables at smoke scale on the card, through the harness: one of each domain."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gpu_sections import Part, Row, source_names
from gpu_sections.source_names import PROJECT

COMMON = ("submitit", "rich", "timm")


@dataclass(frozen=True, kw_only=True)
class TableRun:
    """One cell of a table, as `matched run` takes it.

    Attributes:
        changes: config fields that are changed, as with --set.
        requires: modules that the domain needs, besides the harness's.
        limit: seconds.
        rehearsed: True if the run is part of the rehearsal on a CPU.
    """

    table: str
    row: str
    arm: str = "DyT"
    scale: str = "smoke"
    changes: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    limit: float = 120
    rehearsed: bool = False

    @property
    def name(self) -> str:
        return " ".join((self.table, self.scale, self.row, self.arm, *self.changes))


RUNS = (
    TableRun(table="table1", row="vit_b", changes=("epochs=3", "eval_epochs=3"), rehearsed=True),
    TableRun(table="table2", row="mae_vit_b"),
    TableRun(table="table3", row="dit_b4", requires=("diffusers",)),
    TableRun(table="table4", row="llama_7b", requires=("transformers",)),
    TableRun(table="table5", row="wav2vec2_base", requires=("fairseq",)),
    TableRun(table="table6", row="hyenadna", requires=("pyfaidx",)),
)


def parts(device: str) -> list[Part]:
    return [
        Part(
            name=run.name,
            measure=partial(compute, run),
            limit=run.limit,
            requires=(*COMMON, *run.requires),
        )
        for run in RUNS
        if device == "cuda" or run.rehearsed
    ]


def compute(run: TableRun) -> list[Row]:
    """Compute a cell in a fresh runs folder; return its time and the harness's line about it.

    Raises:
        RuntimeError: the command failed; the message is the end of its output.
    """
    command = [sys.executable, "-m", "matched", "run", run.table, "--scale", run.scale]
    command += ["--row", run.row, "--arm", run.arm]
    for change in run.changes:
        command += ["--set", change]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "site.toml").touch()  # runs are written next to it
        environment = source_names.environment(Path(folder) / "metadata")
        environment["MATCHED_SITE"] = str(Path(folder) / "site.toml")
        started = time.time()
        ended = subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.time() - started
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    last = lines[-1] if lines else ""
    if ended.returncode != 0:
        raise RuntimeError(last or f"exit code {ended.returncode}")
    return [{"run": run.name, "seconds": f"{seconds:.1f}", "result": last}]
