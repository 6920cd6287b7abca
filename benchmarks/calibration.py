"""Calibration benchmark: training from scratch, and conversion of trained networks.

    python benchmarks/calibration.py scratch        # three networks × three widths × three seeds
    python benchmarks/calibration.py conversion     # a trained ViT and a trained LLaMA, three seeds
    python benchmarks/calibration.py scratch --save # also write CSV and Markdown to results/; rows
                                                    # that were not measured again are kept

Scratch: the network's own norm, DyT with α0 = 0.5, with `suggested_alpha0` and calibrated on one
training batch, and Derf calibrated; all arms start from the same weights and see the same batches.
Conversion: the score of the trained network, after `convert(copy_affine=True)`, after calibration,
and the share of the gap between the first two that calibration closes. Intervals are 95 %
t-intervals over seeds.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import calibration_networks
import measuring
import torch
from calibration_networks import Task
from torch import nn

from dyt import Norm, convert, scale_embedding, suggested_alpha0

RESULTS = Path(__file__).parent / "results"
WIDTHS = (32, 64, 128)
SEEDS = (0, 1, 2)
T_QUANTILE = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5 % of Student's t with n - 1 degrees
OWN = "own norm"
CALIBRATED = "DyT (calibrated)"
CONVERSION_WIDTH, CONVERSION_STEPS = 64, 2  # twice the steps of the runs from scratch


def arms(width: int) -> dict[str, tuple[Norm, bool]]:
    """Return the norm of each arm, and True if it is calibrated."""
    alpha0 = suggested_alpha0(width)
    return {
        OWN: (Norm.own(), False),
        "DyT (0.5)": (Norm.dyt(0.5), False),
        "DyT (width rule)": (Norm.dyt(alpha0), False),
        CALIBRATED: (Norm.dyt(), True),
        "Derf (calibrated)": (Norm.derf(), True),
    }


def build(task: Task, width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return task.build(width)


def calibration_batch(task: Task) -> torch.Tensor:
    """Return training inputs with about 2,000 positions."""
    x = task.train[0]
    return x[:128] if task.higher_is_better else x[:32]


def scratch(args: argparse.Namespace) -> list[dict]:
    """Train every arm and return one row for each run."""
    rows = []
    for name in args.networks:
        task = calibration_networks.make_tasks(args.steps)[name]
        for width in args.widths:
            for seed in args.seeds:
                for arm, (norm, calibrated) in arms(width).items():
                    if arm not in args.arms:
                        continue
                    model = build(task, width, seed)
                    if name == "llama" and arm != OWN:
                        scale_embedding(model)  # required for LLaMA with DyT
                    batch = calibration_batch(task) if calibrated else None
                    report = convert(model, norm, calibrate=batch)
                    alphas = [r.alpha0 for r in report if r.alpha0 is not None]
                    row = {
                        "network": name,
                        "width": width,
                        "seed": seed,
                        "arm": arm,
                        "alpha0": f"{statistics.median(alphas):.3g}" if alphas else "",
                        "score": f"{calibration_networks.train(model, task, seed):.4f}",
                    }
                    print(*row.values(), flush=True)
                    rows.append(row)
    return rows


def conversion(args: argparse.Namespace) -> list[dict]:
    """Train networks with their own norm, convert them, and return one row for each network."""
    rows = []
    for name in args.networks:
        if name == "convnext":
            continue
        task = calibration_networks.make_tasks(args.steps * CONVERSION_STEPS)[name]
        for seed in args.seeds:
            model = build(task, CONVERSION_WIDTH, seed)
            trained = calibration_networks.train(model, task, seed)
            copied, calibrated = copy.deepcopy(model), copy.deepcopy(model)
            convert(copied, copy_affine=True)
            started = time.perf_counter()
            convert(calibrated, copy_affine=True, calibrate=calibration_batch(task))
            seconds = time.perf_counter() - started
            before, after = (task.score(m, *task.test) for m in (copied, calibrated))
            row = {
                "network": name,
                "width": CONVERSION_WIDTH,
                "seed": seed,
                "unconverted": f"{trained:.4f}",
                "as copied": f"{before:.4f}",
                "calibrated": f"{after:.4f}",
                "gap closed": f"{gap_closed(before, after, trained):.4f}",
                "seconds": f"{seconds:.2f}",
            }
            print(*row.values(), flush=True)
            rows.append(row)
    return rows


def gap_closed(before: float, after: float, trained: float) -> float:
    """Return the share of the loss of quality by conversion that calibration avoids."""
    return (after - before) / (trained - before) if trained != before else 1.0


def interval(scores: list[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % t-interval; infinite for one score."""
    mean = statistics.fmean(scores)
    if len(scores) < 2:
        return mean, float("inf")
    return mean, T_QUANTILE[len(scores)] * statistics.stdev(scores) / len(scores) ** 0.5


def scratch_table(rows: list[dict]) -> str:
    """Return the Markdown table; calibrated scores outside the own norm's interval are marked."""
    names = list(dict.fromkeys(row["arm"] for row in rows))
    lines = [f"| network, width | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for network, width in dict.fromkeys((row["network"], row["width"]) for row in rows):
        scores = {
            arm: [
                float(row["score"])
                for row in rows
                if (row["network"], row["width"], row["arm"]) == (network, width, arm)
            ]
            for arm in names
        }
        mean, half = interval(scores[OWN])
        better = max if calibration_networks.make_tasks(1)[network].higher_is_better else min
        cells = []
        for arm in names:
            arm_mean, arm_half = interval(scores[arm])
            level = better(arm_mean, mean) == arm_mean or abs(arm_mean - mean) <= half
            text = f"{arm_mean:.2f} ± {arm_half:.2f}"
            cells.append(text if level else f"**{text}**")
        lines.append(f"| {network}, {width} | {' | '.join(cells)} |")
    return "\n".join(lines)


def conversion_table(rows: list[dict]) -> str:
    """Return the Markdown table of means and intervals."""
    columns = ("unconverted", "as copied", "calibrated", "gap closed", "seconds")
    lines = [f"| network | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = []
        for column in columns:
            mean, half = interval([float(r[column]) for r in rows if r["network"] == network])
            cells.append(f"{mean:.3g} ± {half:.2g}")
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


NOTES = {
    "scratch": "Top-1 in % (vit, convnext; higher is better) and loss (llama; lower is better) on"
    " held-out data, mean and 95 % t-interval over seeds. Bold: worse than the own norm by more"
    " than its interval.",
    "conversion": "Top-1 in % (vit) and loss (llama) on held-out data, mean and 95 % t-interval"
    " over seeds. Seconds are those of calibration.",
}


def merged(name: str, rows: list[dict]) -> list[dict]:
    """Return the rows of the saved CSV with the measured ones in their places."""

    def key(row: dict) -> tuple[str, ...]:
        return tuple(str(row.get(field)) for field in ("network", "width", "seed", "arm"))

    path = RESULTS / f"calibration_{name}.csv"
    if not path.exists():
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        results = {key(row): row for row in csv.DictReader(file)}
    results.update((key(row), {k: str(v) for k, v in row.items()}) for row in rows)
    return list(results.values())


def save(name: str, rows: list[dict], table: str) -> None:
    """Write the rows as CSV and the table as Markdown."""
    path = RESULTS / f"calibration_{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    environment = measuring.environment("cpu")
    about = f"torch {environment['torch']}, {environment['hardware']}"
    text = f"# Calibration: {name}\n\n{NOTES[name]} Measured with {about}.\n\n{table}\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")


def main() -> None:
    positive_int = measuring.positive_int
    networks = tuple(calibration_networks.make_tasks(1))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmark", choices=NOTES)
    parser.add_argument("--networks", nargs="+", choices=networks, default=networks)
    parser.add_argument("--widths", nargs="+", type=positive_int, default=WIDTHS)
    parser.add_argument("--arms", nargs="+", choices=arms(64), default=arms(64))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=positive_int, default=250)
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run: Callable = {"scratch": scratch, "conversion": conversion}[args.benchmark]
    rows = run(args)
    if args.save:
        rows = merged(args.benchmark, rows)
    table = {"scratch": scratch_table, "conversion": conversion_table}[args.benchmark](rows)
    print(table)
    if args.save:
        save(args.benchmark, rows, table)


if __name__ == "__main__":
    main()
