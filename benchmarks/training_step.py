"""Training-step benchmark: ViT-S on a CPU with LayerNorm, DyT's kernel and DyT's formula.

    python benchmarks/training_step.py [--rounds 25] [--threads 1] [--dtype bfloat16] [--save]

A step is forward pass, loss, backward pass and AdamW on one batch of random images. The networks
are timed in turn in one process, in a random order for each round, so a busy machine slows them
equally. All parameters except those of the norm layers are shared between the networks, because a
different memory location of the weights alone changes the time of a step by 1 or 2 %, more than all
norms take. A ratio is a ratio of medians, and its range covers 80 % of the rounds. The network with
LayerNorm is measured twice: the distance of the second from 1 is the uncertainty of such ratios.
With bfloat16, forward pass and loss run under autocast. With --save, each network is added as a row
to results/training_step.csv.
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

from dyt import DyT, Norm, convert
from dyt.backends import cpu
from dyt.functional import dyt

CSV = measuring.RESULTS / "training_step.csv"
MODEL, SIZE, CLASSES = "vit_small_patch16_224", 224, 1000
BASE, CONTROL, FORMULA = "LayerNorm", "LayerNorm, repeated", "DyT, eager formula"
ARMS = (BASE, CONTROL, "DyT, kernel", FORMULA)
WARM_UP = 2  # rounds that are not counted
DTYPES = ("float32", "bfloat16")


class FormulaDyT(DyT):
    """DyT in plain PyTorch operations, where the layer would use the kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return dyt(x, self.alpha, self.weight, self.bias, backend="reference")


def build(arm: str, model: str = MODEL) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=CLASSES)
    if arm not in (BASE, CONTROL):
        convert(network, Norm.dyt(alpha0=0.5))
    if arm == FORMULA:
        for layer in network.modules():
            if isinstance(layer, DyT):
                layer.__class__ = FormulaDyT
    return network.train()


def share_parameters(network: nn.Module, base: nn.Module) -> None:
    """Replace a network's parameters, except those of the norm layers, by those of another."""
    for name, parameter in base.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        if not isinstance(module, (nn.LayerNorm, DyT)):
            setattr(module, leaf, parameter)


def build_steps(model: str, images: Tensor, labels: Tensor, dtype: str) -> dict[str, Callable]:
    """Return a function for each arm that runs one training step."""
    networks = {arm: build(arm, model) for arm in ARMS}
    for network in networks.values():
        share_parameters(network, networks[BASE])
    unique = {id(p): p for network in networks.values() for p in network.parameters()}
    optimizer = torch.optim.AdamW(unique.values(), lr=1e-4)  # skips parameters without gradient

    def step(network: nn.Module) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {arm: partial(step, network) for arm, network in networks.items()}


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each network's step in each round."""
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
    """Return a CSV row for each arm."""
    environment = measuring.environment("cpu")
    images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
    times = measure(build_steps(model, images, labels, dtype), rounds)
    _, base, _ = measuring.percentiles(times[BASE])
    result = []
    for arm, values in times.items():
        p10, median, p90 = (1e3 * value for value in measuring.percentiles(values))
        ratios = [a / b for a, b in zip(values, times[BASE], strict=True)]
        low, _, high = measuring.percentiles(ratios)
        head = {"model": model, "norm": arm, "batch": batch, "dtype": dtype, "rounds": rounds}
        ms = {"ms_p10": f"{p10:.1f}", "ms_median": f"{median:.1f}", "ms_p90": f"{p90:.1f}"}
        ratio = {
            "ratio_p10": f"{low:.3f}",
            "ratio_of_medians": f"{median / 1e3 / base:.3f}",
            "ratio_p90": f"{high:.3f}",
        }
        result.append({**head, **ms, **ratio, **environment})
    return result


def table(measured: list[dict]) -> str:
    """Return the measurements as a Markdown table."""
    first = measured[0]
    lines = [
        f"| {first['model']}, batch {first['batch']}, {first['dtype']}, threads:"
        f" {first['threads']} | step | relative to LayerNorm (10–90 %) |",
        "|---|---|---|",
    ]
    for row in measured:
        ratio = f"{row['ratio_of_medians']} ({row['ratio_p10']}–{row['ratio_p90']})"
        lines.append(f"| {row['norm']} | {float(row['ms_median']):.0f} ms | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=measuring.positive_int, default=25)
    parser.add_argument("--batch", type=measuring.positive_int, default=8)
    parser.add_argument("--threads", type=measuring.positive_int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    parser.add_argument("--save", action="store_true", help="add the rows to the CSV file")
    args = parser.parse_args()
    if cpu.PROBLEM is not None:
        parser.error(f"the kernel is missing: {cpu.PROBLEM}. {cpu.REMEDY}")
    measuring.reuse_freed_memory()
    torch.set_num_threads(args.threads)
    measured = rows(args.dtype, args.rounds, args.batch)
    if args.save:
        measuring.append(CSV, measured)
    print(table(measured))


if __name__ == "__main__":
    main()
