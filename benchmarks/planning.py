"""Times ``matched plan``, ``status`` and ``table`` as whole processes, small and with 10,000 runs.

    python benchmarks/planning.py [--runs 10000]

Two cases: Table 1 as it is in this checkout, and a table of that many finished runs (8 cells)
whose directories are generated in a temporary folder. The bounds (1 s and 3 s) are printed beside
the medians of three runs each; nothing fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("plan", "status", "table")
RECIPE = '''"""A table of many runs, generated."""

from dyt import Norm
from dyt_vision.config import Supervised
from matched import Arm, Resources, Run, Scale, Table

TASK = "dyt_vision.supervised:train"
MODELS = {"vit_b": "vit_base_patch16_224", "vit_l": "vit_large_patch16_224",
          "convnext_b": "convnext_base", "convnext_l": "convnext_large"}
COMMON = {"data": "digits", "epochs": 1, "batch": 8, "micro_batch": 8, "lr": 1e-3}
RUNS = {k: Run(task=TASK, config=Supervised(model=m, **COMMON)) for k, m in MODELS.items()}
TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt())),
    scales=(Scale(name="smoke", seeds=tuple(range(SEEDS)), runs=RUNS,
                  resources=Resources(minutes=1)),),
)
'''


def generate(root: Path, runs: int) -> None:
    """A project with one recipe and a finished run directory for every run of it."""
    folder = root / "recipes" / "cvpr2025"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "paper.toml", root / "recipes")
    (folder / "table01.py").write_text(RECIPE.replace("SEEDS", str(runs // 8)))
    os.environ["MATCHED_ROOT"] = str(root)
    from matched import recipes, site
    from matched.files import write_json
    from matched.run_directory import RunDirectory

    recipe = recipes.load("table1")
    runs_folder = site.read(root / "site.toml").runs_folder
    for cell in recipe.table.cells(recipe.scale("smoke")):
        directory = RunDirectory(runs_folder, cell.run)
        directory.prepare()
        directory.write_result({"outcome": "done", "metrics": {"top1": 90.0 + cell.seed % 7}})
        prints = {"weights": cell.row + str(cell.seed), "batches": [str(cell.seed)]}
        write_json(directory / "fingerprint.json", prints)


def seconds(command: str, root: Path) -> float:
    """Median wall time of three processes."""
    environment = {**os.environ, "MATCHED_ROOT": str(root)}
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "matched", command, "table1"],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    rows = [("Table 1", command, seconds(command, ROOT), 1.0) for command in COMMANDS]
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), runs)
        rows += [
            (f"{runs:,} finished runs", command, seconds(command, Path(folder)), 3.0)
            for command in COMMANDS
        ]
    for case, command, median, bound in rows:
        print(f"{case:22} matched {command:7} {median:6.2f} s   (bound {bound:g} s)")
    record = {"benchmark": "planning", "rows": rows}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
