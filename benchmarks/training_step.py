"""Times a training step of ViT-S on a CPU with LayerNorm, with DyT's kernel and with its formula.

    python benchmarks/training_step.py [--rounds 25] [--threads 1] [--dtype bfloat16]

Forward pass, loss, backward pass and AdamW on one batch of random images. The networks take turns
in one process, in an order drawn for each round, so that a busy machine slows them alike. All but
the norm layers is the same memory in each of them: that weights lie elsewhere changes the time of a
step by 1 or 2 %, which is more than what all norms take. A ratio is one of medians, its range that
of 80 % of the rounds. The one with LayerNorm is there twice: how far the second is from 1 is what
such ratios are uncertain by. With bfloat16, forward pass and loss run under autocast. Each network
is a row of results/training_step.csv.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial

import measuring
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt import DynamicTanh, Norm, convert
from dyt.backends import cpu
from dyt.functional import dyt

CSV = measuring.RESULTS / "training_step.csv"
MODEL, SIZE, CLASSES = "vit_small_patch16_224", 224, 1000
BASE, CONTROL, FORMULA = "LayerNorm", "LayerNorm, once more", "DyT, eager formula"
ARMS = (BASE, CONTROL, "DyT, kernel", FORMULA)
WARM_UP = 2  # rounds that are not counted
DTYPES = ("float32", "bfloat16")


class Formula(DynamicTanh):
    """DyT as one writes it in PyTorch, where the layer would use the kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return dyt(x, self.alpha, self.weight, self.bias, backend="reference")


def build(arm: str, model: str = MODEL) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=CLASSES)
    if arm not in (BASE, CONTROL):
        convert(network, Norm.dyt(alpha0=0.5))
    if arm == FORMULA:
        for layer in network.modules():
            if isinstance(layer, DynamicTanh):
                layer.__class__ = Formula
    return network.train()


def share(network: nn.Module, base: nn.Module) -> None:
    """Give a network the very parameters of another, but for those of the norm layers."""
    for name, parameter in base.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        if not isinstance(module, (nn.LayerNorm, DynamicTanh)):
            setattr(module, leaf, parameter)


def steppers(model: str, images: Tensor, labels: Tensor, dtype: str) -> dict[str, Callable]:
    """For each arm a function that takes one training step."""
    networks = {arm: build(arm, model) for arm in ARMS}
    for network in networks.values():
        share(network, networks[BASE])
    every = {id(p): p for network in networks.values() for p in network.parameters()}
    optimizer = torch.optim.AdamW(every.values(), lr=1e-4)  # passes over what has no gradient

    def step(network: nn.Module) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {arm: partial(step, network) for arm, network in networks.items()}


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each network's step in each round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    shuffle = random.Random(0).shuffle
    for _ in range(WARM_UP + rounds):
        shuffle(names)
        for name in names:
            started = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - started)
    return {name: values[WARM_UP:] for name, values in times.items()}


def rows(dtype: str, rounds: int, batch: int, model: str = MODEL, size: int = SIZE) -> list[dict]:
    where = measuring.place("cpu")
    images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
    times = measure(steppers(model, images, labels, dtype), rounds)
    _, base, _ = measuring.spread(times[BASE])
    found = []
    for arm, values in times.items():
        p10, median, p90 = (1e3 * value for value in measuring.spread(values))
        ratios = [a / b for a, b in zip(values, times[BASE], strict=True)]
        low, _, high = measuring.spread(ratios)
        head = {"model": model, "norm": arm, "batch": batch, "dtype": dtype, "rounds": rounds}
        ms = {"ms_p10": f"{p10:.1f}", "ms_median": f"{median:.1f}", "ms_p90": f"{p90:.1f}"}
        ratio = {
            "ratio_p10": f"{low:.3f}",
            "ratio_of_medians": f"{median / 1e3 / base:.3f}",
            "ratio_p90": f"{high:.3f}",
        }
        found.append({**head, **ms, **ratio, **where})
    return found


def table(found: list[dict]) -> str:
    first = found[0]
    lines = [
        f"| {first['model']}, batch {first['batch']}, {first['dtype']}, threads:"
        f" {first['threads']} | a step | over LayerNorm's (10–90 %) |",
        "|---|---|---|",
    ]
    for row in found:
        ratio = f"{row['ratio_of_medians']} ({row['ratio_p10']}–{row['ratio_p90']})"
        lines.append(f"| {row['norm']} | {float(row['ms_median']):.0f} ms | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=measuring.positive, default=25)
    parser.add_argument("--batch", type=measuring.positive, default=8)
    parser.add_argument("--threads", type=measuring.positive, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    given = parser.parse_args()
    if cpu.PROBLEM is not None:
        parser.error(f"the kernel is missing: {cpu.PROBLEM}. {cpu.REMEDY}")
    measuring.keep_memory()
    torch.set_num_threads(given.threads)
    found = rows(given.dtype, given.rounds, given.batch)
    measuring.append(CSV, found)
    print(table(found))


if __name__ == "__main__":
    main()
