"""Benefit of pretraining: fine-tuned MAE and DINO against the same networks without pretraining.

For the rows and both arms of Table 2 at smoke scale, fine-tunes on ten labeled digits of each
class, for the same number of steps: the pretrained network, the network with its initial weights
before pretraining, and a classifier with timm's initial weights. Prints the held-out top-1, mean
and standard deviation over seeds.

    .venv/bin/python benchmarks/pretraining.py           # about ten minutes on two cores
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Grid

from dyt_vision import dino, finetuning, mae, weights
from dyt_vision.config import MAE
from matched import Run, recipes
from matched.task import Context

STARTS = ("pretrained", "before pretraining", "timm's weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="seeds of fine-tuning (default 2)")
    parser.add_argument("--rows", nargs="*", help="rows of table2 (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = recipes.load("table2")
    scale = recipe.scale("smoke")
    cells = [c for c in recipe.table.cells(scale) if not args.rows or c.row in args.rows]
    grid = Grid(title="held-out top-1 after fine-tuning on 100 labeled digits, %")
    for name in ("model", "arm", *STARTS):
        grid.add_column(name, justify="left" if name in ("model", "arm") else "right")
    with Progress() as bar, tempfile.TemporaryDirectory() as folder:
        task = bar.add_task("cells", total=len(cells))
        for cell in cells:
            top1 = accuracies(cell.run, Path(folder) / cell.row / cell.arm, range(args.seeds))
            values = [text(top1[start]) for start in STARTS]
            grid.add_row(recipe.label(cell.row), cell.arm, *values)
            bar.advance(task)
    Console().print(grid)


def accuracies(run: Run, folder: Path, seeds: range) -> Mapping[str, list[float]]:
    """Return the top-1 of each seed's fine-tuning, for each of ``STARTS``."""
    config = run.needs["pretrained"].config
    pretrained, before = folder / "pretrained", folder / "before"
    task = mae.pretrain if isinstance(config, MAE) else dino.pretrain
    task(context(pretrained), config)
    untrained = context(before)
    if isinstance(config, MAE):
        weights.export(untrained, model=mae.build(config)[0].state_dict())
    else:
        weights.export(untrained, teacher=dino.build(config)[0].teacher.state_dict())
    top1: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed in seeds:
        for start, source in zip(STARTS, (pretrained, before, None), strict=True):
            needs = {} if source is None else {"pretrained": source}
            where = context(folder / f"{start} {seed}", needs)
            outcome = finetuning.train(where, replace(run.config, seed=seed))
            top1[start].append(outcome.metrics["top1"])
    return top1


def context(folder: Path, needs: Mapping[str, Path] | None = None) -> Context:
    folder.mkdir(parents=True)
    return Context(directory=folder, signature="benchmark", needs=needs or {})


def text(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
