"""Benefit of diffusion training: Fréchet distances of Table 3 at smoke scale before and after.

Run `make table3` first; this script reads its results. It samples each cell's network with its
initial weights, from the same noise and for the same classes, and scores it in the same way.

    .venv/bin/python benchmarks/diffusion.py             # about a minute and a half
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Grid

from dyt_dit import release_weights, sampling, scoring
from dyt_dit.model import build
from dyt_dit.training import WEIGHTS, WEIGHTS_KEYS
from matched import Run, projects, recipes, site
from matched.run_directory import RunDirectory
from matched.task import Context

KEY = "frechet_digits"


def main() -> None:
    torch.set_num_threads(1)
    recipe = recipes.load("table3")
    runs_folder = site.read(projects.root() / site.FILE).runs_folder
    cells = list(recipe.table.cells(recipe.scale("smoke")))
    results = [RunDirectory(runs_folder, cell.run).result() for cell in cells]
    if None in results:
        sys.exit("not all cells of table3 at smoke scale are done; run `make table3` first")
    grid = Grid(title="Fréchet distance (digits features)")
    for name in ("model", "arm", "untrained", "trained", "ratio"):
        grid.add_column(name, justify="left" if name in ("model", "arm") else "right")
    with Progress() as bar, tempfile.TemporaryDirectory() as folder:
        task = bar.add_task("cells", total=len(cells))
        for cell, result in zip(cells, results, strict=True):
            before = untrained(cell.run, Path(folder) / cell.row / cell.arm, runs_folder)
            after = result["metrics"][KEY]
            values = (f"{before:.1f}", f"{after:.2f}", f"{before / after:.0f}")
            grid.add_row(recipe.label(cell.row), cell.arm, *values)
            bar.advance(task)
    Console().print(grid)


def untrained(run: Run, folder: Path, runs_folder: Path) -> float:
    """Return the distance of a cell whose network has its initial weights."""
    samples = run.needs["samples"]
    config = samples.needs["trained"].config
    model, _ = build(config)
    state = release_weights.to_release(model, model.state_dict())
    directories = {name: folder / name for name in ("trained", "samples", "score")}
    for directory in directories.values():
        directory.mkdir(parents=True)
    left = (state, state, asdict(config.network), config.diffusion_steps, "pixels")
    torch.save(dict(zip(WEIGHTS_KEYS, left, strict=True)), directories["trained"] / WEIGHTS)
    sampling.generate(context(directories, "samples", "trained"), samples.config)
    needs = {n: RunDirectory(runs_folder, r).path for n, r in run.needs.items() if n != "samples"}
    where = context(directories, "score", "samples", **needs)
    return scoring.score(where, run.config).metrics[KEY]


def context(directories: dict[str, Path], name: str, need: str, **more: Path) -> Context:
    needs = {need: directories[need], **more}
    return Context(directory=directories[name], signature="benchmark", needs=needs)


if __name__ == "__main__":
    main()
