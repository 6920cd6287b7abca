"""Benchmark of the shared training loop against a bare PyTorch loop on the same small model.

    python benchmarks/loop.py [--steps 300] [--rounds 5]

Both train the smoke-scale ViT of Table 1 on the same tensors with AdamW. They alternate in one
process; the result is the median over rounds of the ratio of their times. The time of the shared
loop includes its seeding, fingerprint, metrics, progress and last checkpoint. Bound: 1.03.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dyt_vision import models
from matched import TrainConfig, recipes
from matched.task import Context
from matched.training import Learner, fit

BATCH = 32
DEVICE = torch.device("cpu")


def build() -> tuple[nn.Module, torch.optim.Optimizer, tuple[str, ...]]:
    recipe = recipes.load("table1")
    run = recipe.scale("smoke").runs["vit_b"]
    model, norms = models.build(run.config, classes=10)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), norms


def bare(dataset: TensorDataset, steps: int) -> float:
    """Return the seconds that a minimal loop takes, as written in a notebook."""
    model, optimizer, _ = build()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    started = time.perf_counter()
    for step, (image, label) in enumerate(DataLoader(dataset, BATCH, shuffle=True)):
        loss = F.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 49:
            loss.item()
    return time.perf_counter() - started


def shared(dataset: TensorDataset, steps: int) -> float:
    """Return the seconds that ``matched.training.fit`` takes for the same steps."""
    model, optimizer, norms = build()
    config = TrainConfig(epochs=1, batch=BATCH, micro_batch=BATCH, lr=1e-3, log_steps=50)
    learner = Learner(
        model=model,
        optimizer=optimizer,
        dataset=dataset,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        evaluate=lambda model: {"none": 0.0},
        selection_metric=("none", "higher"),
        norms=norms,
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        fit(Context(directory=Path(folder), signature="benchmark"), config, learner, DEVICE)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(args.steps * BATCH, 3, 16, 16)
    dataset = TensorDataset(images, torch.randint(10, (len(images),)))
    rounds = args.rounds + 1  # the first warms up
    pairs = [(shared(dataset, args.steps), bare(dataset, args.steps)) for _ in range(rounds)][1:]
    ratios = sorted(a / b for a, b in pairs)
    step = statistics.median(b for _, b in pairs) / args.steps * 1e3
    ratio = statistics.median(ratios)
    print(
        f"shared loop / bare loop: {ratio:.3f} (min {ratios[0]:.3f}, max {ratios[-1]:.3f}, "
        f"bound 1.03), {step:.1f} ms per bare step of {BATCH} images"
    )
    print(json.dumps({"benchmark": "loop", "ratios": ratios, "bare_ms_per_step": step}))


if __name__ == "__main__":
    main()
