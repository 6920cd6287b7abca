"""Benchmark of the shared training loop, and of the signals that it records, on a small model.

    python benchmarks/loop.py [--steps 300] [--rounds 5]

The shared loop and a bare PyTorch loop train the smoke-scale ViT of Table 1 on the same tensors
with AdamW. They alternate in one process; the result is the median over rounds of the ratio of
their times. The time of the shared loop includes its seeding, fingerprint, metrics, progress and
last checkpoint. Bound: 1.03.

The signals (gradient norm, throughput, α and their lines) are timed alone, in each round after the
loops, because their share is smaller than the noise of two loops. The result is their CPU time per
step, with a logged line every 50 steps and α every 300, over the CPU time of a bare step. Bound:
0.01.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dyt
from dyt_vision import models
from matched import TrainConfig, recipes
from matched.task import Context
from matched.training import Learner, fit
from matched.training.measurements import PerformanceMeter, gradient_norm
from matched.training.metrics_log import StepLines

BATCH = 32
LOG_STEPS, EVALUATION_STEPS = 50, 300
REPETITIONS = 50
"""Number of times that the signals are measured in a round."""
DEVICE = torch.device("cpu")


def build(
    norm: dyt.Norm | None = None,
) -> tuple[nn.Module, torch.optim.Optimizer, tuple[str, ...]]:
    """Return the model with LN or another norm, its optimizer and the paths of its norm layers."""
    recipe = recipes.load("table1")
    run = recipe.scale("smoke").runs["vit_b"]
    config = dataclasses.replace(run.config, norm=norm or dyt.Norm.own())
    model, norms = models.build(config, classes=10)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), norms


def bare(dataset: TensorDataset, steps: int) -> tuple[float, float]:
    """Return seconds and CPU seconds of a minimal loop, as written in a notebook."""
    model, optimizer, _ = build()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    started, cpu_started = time.perf_counter(), time.process_time()
    for step, (image, label) in enumerate(DataLoader(dataset, BATCH, shuffle=True)):
        loss = F.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 49:
            loss.item()
    return time.perf_counter() - started, time.process_time() - cpu_started


def shared(dataset: TensorDataset, steps: int) -> float:
    """Return the seconds that ``matched.training.fit`` takes for the same steps."""
    model, optimizer, norms = build()
    config = TrainConfig(epochs=1, batch=BATCH, micro_batch=BATCH, lr=1e-3, log_steps=LOG_STEPS)
    learner = Learner(
        model=model,
        optimizer=optimizer,
        dataset=dataset,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        evaluate=lambda model: {"none": 0.0},
        selection_metric=("none", "higher"),
        norms=norms,
        alphas=dyt.alphas,
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        fit(Context(directory=Path(folder), signature="benchmark"), config, learner, DEVICE)
        return time.perf_counter() - started


def signals(dataset: TensorDataset) -> tuple[float, float]:
    """Return the CPU seconds of the signals of a logged step, and of an evaluation, with DyT."""
    model, _, _ = build(dyt.Norm.dyt())
    image, label = dataset[:BATCH]
    F.cross_entropy(model(image), label).backward()
    meter = PerformanceMeter(DEVICE)
    with tempfile.TemporaryDirectory() as folder:
        lines = StepLines(Path(folder) / "performance.jsonl")
        lines.open(0)
        started = time.process_time()
        for step in range(REPETITIONS):
            norm = gradient_norm(model.parameters()).item()
            meter.add(BATCH)
            lines.append({"step": step, "time": time.time(), "norm": norm, **meter.read()})
        logged = time.process_time()
        for _ in range(REPETITIONS):
            dyt.alphas(model)
        evaluated = time.process_time()
        lines.close()
    return (logged - started) / REPETITIONS, (evaluated - logged) / REPETITIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(args.steps * BATCH, 3, 16, 16)
    dataset = TensorDataset(images, torch.randint(10, (len(images),)))
    rounds = args.rounds + 1  # the first warms up
    pairs, shares = [], []
    for _ in range(rounds):
        seconds = shared(dataset, args.steps)
        bare_seconds, bare_cpu_seconds = bare(dataset, args.steps)
        pairs.append((seconds, bare_seconds))
        logged, evaluated = signals(dataset)
        per_step = logged / LOG_STEPS + evaluated / EVALUATION_STEPS
        shares.append([s / bare_cpu_seconds * args.steps for s in (per_step, logged, evaluated)])
    ratios = sorted(a / b for a, b in pairs[1:])
    share, logged, evaluated = map(statistics.median, zip(*shares[1:], strict=True))
    step = statistics.median(b for _, b in pairs[1:]) / args.steps * 1e3
    ratio = statistics.median(ratios)
    print(
        f"shared loop / bare loop: {ratio:.3f} (min {ratios[0]:.3f}, max {ratios[-1]:.3f}, "
        f"bound 1.03), {step:.1f} ms per bare step of {BATCH} images"
    )
    print(
        f"signals / bare step, CPU time: {share:.5f} (bound 0.01); {logged:.4f} in a logged step, "
        f"{evaluated:.4f} in an evaluation"
    )
    figures = {"ratios": ratios, "bare_ms_per_step": step, "signals": share}
    print(json.dumps({"benchmark": "loop", **figures}))


if __name__ == "__main__":
    main()
