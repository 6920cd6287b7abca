"""Training steps of ViT-B, DiT-B/4 and MAE-B with LayerNorm and DyT: time and memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt import Norm, convert
from gpu_sections import Part, Row, timing

BATCH = {"cuda": 128, "cpu": 2}
ROUNDS = {"cuda": 15, "cpu": 1}
CLASSES = 1000
ARMS = ("LN", "DyT")
Loss = Callable[[], Tensor]


def parts(device: str) -> list[Part]:
    modes = ("eager", "compiled") if device == "cuda" else ("eager",)
    return [
        Part(
            name=f"{model}, {mode}",
            measure=partial(steps, device, model, mode),
            limit=150,
            requires=REQUIRES[model],
            gigabytes=24 if device == "cuda" else 1,
        )
        for mode in modes  # the eager ones first: compilers may take the section's time
        for model in MODELS
    ]


def vit_b(device: str) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    import timm

    sizes: dict[str, Any] = (
        {} if device == "cuda" else {"depth": 1, "embed_dim": 24, "img_size": 32}
    )
    network = timm.create_model("vit_base_patch16_224", num_classes=CLASSES, **sizes)
    side = 224 if device == "cuda" else 32
    images = torch.randn(BATCH[device], 3, side, side, device=device)
    labels = torch.randint(CLASSES, (BATCH[device],), device=device)
    return network, lambda model: F.cross_entropy(model(images), labels)


def dit_b4(device: str) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    from dyt_dit.config import Network
    from dyt_dit.model import DiffusionTransformer, initialize

    sizes = (
        {"width": 768, "depth": 12, "heads": 12}
        if device == "cuda"
        else ({"width": 24, "depth": 1, "heads": 2})
    )
    config = Network(patch_size=4, **sizes)
    network = DiffusionTransformer(config)
    initialize(network)
    batch = 2 * BATCH[device]  # the paper's batch of 256 on one card
    shape = (batch, config.channels, config.input_size, config.input_size)
    latents, noise = torch.randn(shape, device=device), torch.randn(shape, device=device)
    t = torch.randint(1000, (batch,), device=device)
    labels = torch.randint(config.classes, (batch,), device=device)

    def loss(model: nn.Module) -> Tensor:
        predicted, _ = model(latents, t, labels).chunk(2, dim=1)
        return F.mse_loss(predicted, noise)

    return network, loss


def mae_b(device: str) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    from dyt_vision.config import MAE
    from dyt_vision.mae_model import MaskedAutoencoder

    common: dict[str, Any] = {"data": "imagenet", "epochs": 1, "warmup_epochs": 0, "lr": 1e-3}
    common |= {"batch": BATCH[device], "micro_batch": BATCH[device]}
    sizes: dict[str, Any] = (
        {}
        if device == "cuda"
        else {
            "image_size": 32,
            "width": 24,
            "depth": 1,
            "heads": 2,
            "decoder_width": 24,
            "decoder_depth": 1,
            "decoder_heads": 2,
        }
    )
    config = MAE(**common, **sizes)
    batch = BATCH[device]
    images = torch.randn(batch, 3, config.image_size, config.image_size, device=device)
    noise = torch.rand(batch, (config.image_size // config.patch_size) ** 2, device=device)
    return MaskedAutoencoder(config), lambda model: model(images, noise)[0]


MODELS = {"ViT-B": vit_b, "MAE-B": mae_b, "DiT-B/4": dit_b4}
REQUIRES = {"ViT-B": ("timm",), "MAE-B": ("timm", "einops"), "DiT-B/4": ("diffusers", "einops")}


def steps(device: str, model: str, mode: str) -> list[Row]:
    """Return a row for each arm: ms of a step, and the peak memory of one."""
    calls = {}
    for arm in ARMS:
        torch.manual_seed(0)
        network, loss = MODELS[model](device)
        if arm == "DyT":
            convert(network, Norm.dyt(alpha0=0.5))
        network.to(device).train()
        if mode == "compiled":
            compile_blocks(network)
        optimizer = torch.optim.AdamW(
            (p for p in network.parameters() if p.requires_grad), lr=1e-4, fused=device == "cuda"
        )
        calls[arm] = partial(_step, device, network, loss, optimizer)
    times = timing.microseconds(calls, device, ROUNDS[device])
    rows: list[Row] = []
    for arm, values in times.items():
        row: Row = {"model": model, "mode": mode, "norm": arm, "batch": _batch(device, model)}
        row |= timing.statistics("ms", [value / 1e3 for value in values])
        ratios = [a / b for a, b in zip(values, times["LN"], strict=True)]
        row |= timing.statistics("ratio", ratios, "{:.3f}")
        rows.append({**row, "peak_gigabytes": _peak(calls[arm]) if device == "cuda" else ""})
    return rows


def compile_blocks(network: nn.Module) -> None:
    """Compile each block of a network; the first serves all equal ones, so it takes seconds."""
    blocks = [
        module
        for path, module in network.named_modules()
        if path.split(".")[-1].isdigit() and path.split(".")[-2].endswith("blocks")
    ]
    assert blocks, "the network has no blocks"
    for block in blocks:
        block.compile(dynamic=False)


def _batch(device: str, model: str) -> int:
    return BATCH[device] * (2 if model == "DiT-B/4" else 1)


def _step(
    device: str,
    network: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    with torch.autocast(device, torch.bfloat16):
        value = loss(network)
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _peak(call: Callable[[], None]) -> str:
    """Return the memory that one step adds to what is allocated, in GB."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**30:.2f}"
