"""Benefit of pretraining on few labels: HyenaDNA and Caduceus, pretrained and from scratch.

For the rows and both arms of CVPR's Table 6 at smoke scale, fine-tunes on a few labeled sequences
of each task, for the same number of steps, the pretrained network and the same network with its
initial weights. Prints the test accuracy at the best validation epoch, averaged over the tasks.
With --save, each task of each row and arm becomes a row of results/dna_pretraining.csv.

    .venv/bin/python benchmarks/dna_pretraining.py [--save]      # about seven minutes on one core
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import measuring
import torch
from rich.console import Console
from rich.table import Table as Grid

from matched import Run, recipes
from matched.files import write_json
from matched.table import Cell
from matched.task import Context, Outcome

CSV = measuring.RESULTS / "dna_pretraining.csv"
STARTS = ("pretrained", "from scratch")
LABELS = 160
EPOCHS = {"dyt_hyenadna.finetuning:train": 24, "dyt_caduceus.finetuning:train": 16}
"""Task → epochs of the fine-tuning: 120 steps of HyenaDNA, 160 of Caduceus with a batch of 16."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", help="rows of table6 (default: all)")
    parser.add_argument("--tasks", nargs="*", help="tasks (default: all)")
    parser.add_argument("--labels", type=int, default=LABELS, help=f"default {LABELS}")
    parser.add_argument("--save", action="store_true", help=f"add rows to {CSV.name}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = measuring.environment("cpu")
    recipe = recipes.load("table6")
    cells = recipe.table.cells(recipe.scale("smoke"))
    grid = Grid(title=f"test accuracy after fine-tuning on {args.labels} labeled sequences, %")
    for name in ("model", "arm", "task", *STARTS):
        grid.add_column(name, justify="right" if name in STARTS else "left")
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            if args.rows and cell.row not in args.rows:
                continue
            found = accuracies(
                cell.run, Path(folder) / cell.row / cell.arm, args.tasks, args.labels
            )
            label = recipe.label(cell.row)
            for task, values in found.items():
                grid.add_row(label, cell.arm, task, *(f"{values[s]:.1f}" for s in STARTS))
            if args.save:
                measuring.append(CSV, rows_of(cell, args.labels, found, columns))
            means = [statistics.fmean(v[start] for v in found.values()) for start in STARTS]
            grid.add_row(label, cell.arm, "mean", *(f"{mean:.1f}" for mean in means))
    Console(width=120).print(grid)


def rows_of(
    cell: Cell,
    labels: int,
    found: Mapping[str, Mapping[str, float]],
    columns: Mapping[str, str | int | float],
) -> list[dict[str, str | int | float]]:
    """Return a line of CSV for each task of a cell; ``columns`` are those of the machine."""
    place = {"row": cell.row, "arm": cell.arm, "seed": cell.seed, "labels": labels}
    return [
        {
            **place,
            "task": task,
            **{start.replace(" ", "_"): f"{values[start]:.1f}" for start in STARTS},
            "signature": cell.run.signature,
            **columns,
        }
        for task, values in found.items()
    ]


def accuracies(
    run: Run, folder: Path, tasks: Sequence[str] | None = None, labels: int = LABELS
) -> Mapping[str, Mapping[str, float]]:
    """Return task → start → test accuracy, with the first split of each task.

    Args:
        run: a cell of the table.
        folder: for the runs.
        tasks: None for all.
        labels: sequences to train on.
    """
    found: dict[str, dict[str, float]] = {}
    for task in tasks or list(run.needs):
        tuning = run.needs[task].needs["split1"]
        needs = {name: compute(need, folder / name) for name, need in tuning.needs.items()}
        epochs = EPOCHS[tuning.task] * LABELS // labels
        config = replace(
            tuning.config,
            train_samples=labels,
            epochs=epochs,
            warmup_epochs=epochs / 10,
            eval_epochs=epochs // 2,
        )
        found[task] = {}
        for start in STARTS:
            used = {n: path for n, path in needs.items() if n != "pretrained" or start == STARTS[0]}
            tuned = Run(task=tuning.task, config=config)
            outcome = call(tuned, folder / task / start, used)
            found[task][start] = outcome.metrics["accuracy"]
    return found


def compute(run: Run, folder: Path) -> Path:
    """Compute a run and its needs once, and return its directory."""
    if not (folder / "result.json").exists():
        needs = {name: compute(need, folder.parent / name) for name, need in run.needs.items()}
        outcome = call(run, folder, needs)
        write_json(folder / "result.json", {"outcome": "done", "metrics": dict(outcome.metrics)})
    return folder


def call(run: Run, folder: Path, needs: Mapping[str, Path]) -> Outcome:
    """Call the task of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    module, _, function = run.task.partition(":")
    task: Any = getattr(import_module(module), function)
    outcome: Outcome = task(
        Context(directory=folder, signature="benchmark", needs=needs), run.config
    )
    return outcome


if __name__ == "__main__":
    main()
