"""Cost of a training step inside of a `dyt.replacing` block, relative to `dyt.convert`.

    python benchmarks/replacing.py

Both networks are the same. Steps are timed in turn in one process, in CPU time; the ratio of a
round in a block to the rounds by hand before and after it is one measurement. The first step in a
block, which writes the report, is not timed.
"""

from __future__ import annotations

import statistics
import time

import timm
import torch

from dyt import Norm, convert, replacing

ROUNDS = 21
STEPS = 3
BATCH = 4


def network() -> torch.nn.Module:
    """Return a ViT of width 192 on images of 64 pixels."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=6)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()


def seconds(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> float:
    """Return the CPU time of some steps."""
    start = time.process_time()
    for _ in range(STEPS):
        step(model, optimizer, x)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    images = torch.randn(BATCH, 3, 64, 64)
    by_hand = network()
    convert(by_hand, Norm.dyt())
    plain = torch.optim.AdamW(by_hand.parameters())
    ratios, control = [], []
    with replacing(Norm.dyt()):
        inside = network()
        optimizer = torch.optim.AdamW(inside.parameters())
        seconds(inside, optimizer, images)
    seconds(by_hand, plain, images)
    for number in range(ROUNDS):
        first = seconds(by_hand, plain, images)
        with replacing(Norm.dyt()):
            torch.nn.Sequential(torch.nn.LayerNorm(4))  # a block has to replace something
            step(inside, optimizer, images)
            in_block = seconds(inside, optimizer, images)
        second = seconds(by_hand, plain, images)
        if number:  # the first round warms caches
            ratios.append(2 * in_block / (first + second))
            control.append(second / first)
    for name, values in (("in a block / by hand", ratios), ("by hand / by hand", control)):
        low, *_, high = statistics.quantiles(values, n=10)
        print(f"{name}: median {statistics.median(values):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
