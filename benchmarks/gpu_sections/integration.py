"""Checks of the layer under what torch does around it: autocast, compilation, graphs, sharding."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from dyt import Derf, DyT
from gpu_sections import Part, Row
from gpu_sections.outcomes import check, outcome

WIDTH = 64


def parts(device: str) -> list[Part]:
    checks: dict[str, Callable[[str], list[Row]]] = {
        "opcheck": opcheck,
        "autocast": autocast,
        "torch.compile": compiled,
        "DDP and FSDP2, one process": sharded,
    }
    if device == "cuda":
        checks |= {"GradScaler": grad_scaler, "CUDA graph": cuda_graph, "TF32": tf32}
    return [Part(name=name, measure=partial(run, device)) for name, run in checks.items()]


def network(device: str) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Linear(WIDTH, WIDTH),
        DyT(WIDTH),
        nn.Linear(WIDTH, WIDTH),
        Derf(WIDTH),
    )
    return nn.Sequential(*layers).to(device)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return output and gradients of all parameters, for a fixed loss."""
    model.zero_grad()
    y = model(x)
    y.float().square().mean().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest relative distance, in the Euclidean norm, of the tensors of two lists."""
    assert len(found) == len(expected), "a parameter has no gradient"
    pairs = zip(found, expected, strict=True)
    return max(
        float((a.double() - b.double()).norm() / (b.double().norm() + 1e-30)) for a, b in pairs
    )


def opcheck(device: str) -> list[Row]:
    """Run torch's own checks of the operator: schema, autograd, fake tensors, AOT dispatch."""
    x = torch.randn(3, 8, device=device, requires_grad=True)
    alpha, weight, bias = (torch.rand(n, device=device, requires_grad=True) for n in (1, 8, 8))
    rows = []
    for squash, shift in (("tanh", None), ("erf", torch.zeros(1, device=device))):
        arguments = (x, alpha, shift, weight, bias, squash, -1, False)
        results = torch.library.opcheck(torch.ops.dyt.dyt.default, arguments)
        rows += [
            outcome(f"{squash}: {name}", value == "SUCCESS") for name, value in results.items()
        ]
    return rows


def autocast(device: str) -> list[Row]:
    """Compare a network under autocast to bfloat16 with the same one in float32."""
    model, x = network(device), torch.randn(16, WIDTH, device=device)
    exact = gradients(model, x)
    with torch.autocast(device, torch.bfloat16):
        found = gradients(model, x)
    assert found[0].dtype == torch.float32, "the result has the dtype of the parameters"
    return [check("bfloat16 against float32", distance(found, exact) / 2**-5)]


def compiled(device: str) -> list[Row]:
    """Compare a network compiled as one graph with the eager one."""
    model, x = network(device), torch.randn(16, WIDTH, device=device)
    exact = gradients(model, x)
    backend = "inductor" if device == "cuda" else "aot_eager"  # inductor needs a minute on a CPU
    found = gradients(torch.compile(model, fullgraph=True, backend=backend), x)
    return [check(f"{backend}, fullgraph", distance(found, exact) / 1e-4)]


def grad_scaler(device: str) -> list[Row]:
    """Train in float16 with a scaled loss; the loss falls and no step is skipped at the end."""
    model, x = network(device), torch.randn(64, WIDTH, device=device)
    target = torch.randn(64, WIDTH, device=device).tanh() / 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    losses = []
    for _ in range(30):
        with torch.autocast(device, torch.float16):
            loss = F.mse_loss(model(x), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return [
        outcome(
            "float16 training", losses[-1] < 0.8 * losses[0], f"{losses[0]:.3g} → {losses[-1]:.3g}"
        )
    ]


def cuda_graph(device: str) -> list[Row]:
    """Compare both passes, replayed by a CUDA graph on other data, with eager ones."""
    model, x = network(device), torch.randn(16, WIDTH, device=device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            gradients(model, x)
    torch.cuda.current_stream().wait_stream(stream)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
        y.square().mean().backward()
    x.copy_(torch.randn(16, WIDTH, device=device))
    graph.replay()
    found = [y.detach().clone(), *(p.grad.clone() for p in model.parameters())]
    fresh = network(device)
    return [check("replay on other data", distance(found, gradients(fresh, x)) / 1e-5)]


def tf32(device: str) -> list[Row]:
    """Compare the layer with and without TF32, which applies to matrix products only."""
    layer, x = DyT(WIDTH).to(device), torch.randn(16, WIDTH, device=device)
    results = []
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        for flag in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = flag
            results.append(gradients(layer, x))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return [outcome("bitwise equal with TF32", all(map(torch.equal, *results)))]


def sharded(device: str) -> list[Row]:
    """Compare DDP and FSDP2 in a group of one process with the plain network."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model, x = network(device), torch.randn(16, WIDTH, device=device)
    exact = gradients(model, x)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= address
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend)
    try:
        in_ddp = gradients(nn.parallel.DistributedDataParallel(network(device)), x)
        mesh = dist.init_device_mesh(device, (1,))
        model = network(device)
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        in_fsdp = [t.full_tensor() if isinstance(t, DTensor) else t for t in gradients(model, x)]
        return [
            check(f"DDP, {backend}", distance(in_ddp, exact) / 1e-5),
            check(f"FSDP2, {backend}", distance(in_fsdp, exact) / 1e-5),
        ]
    finally:
        dist.destroy_process_group()
