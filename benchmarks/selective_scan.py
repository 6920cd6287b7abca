"""Implementations of the selective scan side by side: time and memory over the sequence length.

    python benchmarks/selective_scan.py [--lengths 256,1024,4096] [--channels 236] [--save]
    python benchmarks/selective_scan.py --device cuda      # the kernels that are installed

One measurement is a forward and a backward pass in float32 with 16 states a channel; 236 channels
are those of a Caduceus of width 118. All implementations are run in turn in one process, so that
other processes slow them equally, and a ratio is the median over rounds. On a CPU, time is the
process's CPU time, and the implementations are ours, the formula with all states kept for
autograd, and mambapy's parallel scan if that package is on the path. Memory is what autograd saves.
With --save, each length and implementation becomes a row of results/selective_scan.csv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import measuring
import torch
from torch import Tensor
from torch.nn import functional as F

from dyt_caduceus.selective_scan import SCANS, choose_scan, selective_scan

CSV = measuring.RESULTS / "selective_scan.csv"
STATES = 16
WARM_UP = 1  # rounds that are not counted
Scan = Callable[..., Tensor]


def kept_states(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """Compute the formula step by step; autograd keeps the states and decays of all steps."""
    delta = F.softplus(delta + delta_bias[:, None])
    state = u.new_zeros(u.shape[0], *A.shape)
    decays = torch.exp(delta[..., None] * A.unsqueeze(1)).unbind(2)
    added = ((delta * u)[..., None] * B.transpose(1, 2)[:, None]).unbind(2)
    states = []
    for decay, into in zip(decays, added, strict=True):
        state = torch.addcmul(into, decay, state)
        states.append(state)
    y = torch.einsum("bdln,bnl->bdl", torch.stack(states, 2), C)
    return (y + D[:, None] * u) * F.silu(z)


def mambapy_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """Compute the scan with mambapy's pscan, on tensors (B, L, D, N)."""
    from mambapy.pscan import pscan

    delta = F.softplus(delta + delta_bias[:, None]).transpose(1, 2)
    added = (delta * u.transpose(1, 2))[..., None] * B.transpose(1, 2)[:, :, None]
    states = pscan(torch.exp(delta[..., None] * A), added)
    y = (states @ C.transpose(1, 2)[..., None]).squeeze(3).transpose(1, 2)
    return (y + D[:, None] * u) * F.silu(z)


def implementations(device: str) -> dict[str, Scan]:
    """Return the implementations that can run, ours first."""
    if device == "cpu":
        others = {"kept states": kept_states}
        if find_spec("mambapy") is not None:
            others["mambapy"] = mambapy_scan
        return {"torch": selective_scan, **others}
    found: dict[str, Scan] = {}
    for name in SCANS:
        try:
            choose_scan(device, name)
        except ValueError as error:
            print(f"{name}: {error}")
        else:
            found[name] = lambda *inputs, name=name: selective_scan(*inputs, scan=name)
    return found


def inputs_of(batch: int, channels: int, length: int, device: str) -> list[Tensor]:
    """Return random arguments of a scan, with the initial weights' range of step sizes."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    sequence, states = (batch, channels, length), (batch, STATES, length)
    A = -torch.arange(1.0, STATES + 1).expand(channels, STATES)
    parts = [normal(*sequence), normal(*sequence), A, normal(*states), normal(*states)]
    parts += [normal(channels), normal(*sequence), normal(channels) - 4.6]
    return [part.to(device, copy=True).requires_grad_() for part in parts]


def seconds(scan: Scan, inputs: Sequence[Tensor], device: str) -> float:
    """Return the time of one forward and backward pass."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    torch.autograd.grad(scan(*inputs).sum(), inputs)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def saved_megabytes(scan: Scan, inputs: Sequence[Tensor]) -> float:
    """Return the size of what autograd saves for the backward pass, without the inputs."""
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    saved: dict[int, tuple[int, Tensor]] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        scan(*inputs)
    return sum(size for size, _ in saved.values()) / 1e6


def measure(
    scans: dict[str, Scan], length: int, options: argparse.Namespace
) -> list[dict[str, str | int]]:
    """Return a row for each implementation: times, and the ratio of the first one's to its own."""
    inputs = inputs_of(options.batch, options.channels, length, options.device)
    rounds = [
        {name: seconds(scan, inputs, options.device) for name, scan in scans.items()}
        for _ in range(WARM_UP + options.rounds)
    ][WARM_UP:]
    first = next(iter(scans))
    rows: list[dict[str, str | int]] = []
    for name, scan in scans.items():
        median = measuring.percentiles([times[name] for times in rounds])[1]
        low, ratio, high = measuring.percentiles([times[first] / times[name] for times in rounds])
        rows.append(
            {
                "implementation": name,
                "length": length,
                "batch": options.batch,
                "channels": options.channels,
                "rounds": options.rounds,
                "ms_median": f"{1000 * median:.1f}",
                "us_per_base": f"{1e6 * median / (options.batch * length):.2f}",
                "saved_mb": f"{saved_megabytes(scan, inputs):.1f}",
                "first_over_this_p10": f"{low:.3f}",
                "first_over_this": f"{ratio:.3f}",
                "first_over_this_p90": f"{high:.3f}",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", default="256,1024,4096", help="such as 1024,4096")
    parser.add_argument("--batch", type=measuring.positive_int, default=2)
    parser.add_argument("--channels", type=measuring.positive_int, default=236)
    parser.add_argument("--rounds", type=measuring.positive_int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--save", action="store_true", help=f"add rows to {CSV.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = measuring.environment(options.device)
    scans = implementations(options.device)
    for length in map(measuring.positive_int, options.lengths.split(",")):
        rows = measure(scans, length, options)
        for row in rows:
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        if options.save:
            measuring.append(CSV, [{**row, **columns} for row in rows])


if __name__ == "__main__":
    measuring.reuse_freed_memory()
    main()
