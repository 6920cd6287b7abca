"""CUDA calls redirected to the CPU, for trials of scripts that require a GPU.

Devices of CUDA become the CPU, NCCL becomes gloo, and calls that wait for a GPU do nothing.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed.fsdp
from torch.overrides import TorchFunctionMode


def _on_cpu(value: Any) -> Any:
    """Return a device argument as the CPU; anything else as it is."""
    if isinstance(value, torch.device) or (isinstance(value, str) and value.startswith("cuda")):
        return torch.device("cpu") if torch.device(value).type == "cuda" else value
    return value


class _CpuMode(TorchFunctionMode):
    """Send every tensor to the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and type(args[1]) is int:
            args = (args[0], torch.device("cpu"), *args[2:])
        if "device" in options:
            device = options["device"]
            options["device"] = torch.device("cpu") if type(device) is int else _on_cpu(device)
        if func in (torch.Tensor.cpu, torch.Tensor.to):
            args = tuple(map(_on_cpu, args))
        return func(*args, **options)


class _NoStream:
    """CUDA stream in which nothing is pending."""

    def synchronize(self) -> None: ...

    def wait_stream(self, other: Any) -> None: ...


def redirect_cuda_to_cpu() -> None:
    """Report one GPU to this process, and use the CPU for it."""
    if torch.cuda.is_available():
        return
    distributed: Any = torch.distributed
    parallel: Any = torch.nn.parallel
    fsdp: Any = torch.distributed.fsdp
    start, wrap = distributed.init_process_group, parallel.DistributedDataParallel
    shard = fsdp.FullyShardedDataParallel

    def init_process_group(backend: Any = None, *args: Any, **options: Any) -> None:
        start("gloo", *args, **options)

    class OnCpu(wrap):  # type: ignore[misc, valid-type]
        """DistributedDataParallel that ignores device_ids."""

        def __init__(self, module: Any, device_ids: Any = None, **options: Any) -> None:
            super().__init__(module, **options)

    class ShardedOnCpu(shard):  # type: ignore[misc, valid-type]
        """FullyShardedDataParallel with the CPU as its device."""

        def __init__(self, module: Any, *args: Any, **options: Any) -> None:
            super().__init__(module, *args, **{**options, "device_id": torch.device("cpu")})

    distributed.init_process_group = init_process_group
    parallel.DistributedDataParallel = OnCpu
    fsdp.FullyShardedDataParallel = ShardedOnCpu
    cuda: Any = torch.cuda
    cuda.is_available, cuda.device_count = lambda: True, lambda: 1
    cuda.current_device = lambda: 0
    cuda.is_bf16_supported = lambda *_, **options: False
    for name in ("max_memory_allocated", "max_memory_reserved"):
        setattr(cuda, name, lambda *_, **options: 0)
    cuda.is_current_stream_capturing = lambda: False
    stream = _NoStream()
    cuda.current_stream, cuda.stream = lambda *_: stream, lambda *_: nullcontext()
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats"):
        setattr(cuda, name, lambda *_, **options: None)
    mode: Any = _CpuMode()
    mode.__enter__()  # until the process ends
    # As torchrun sets them: some scripts read these variables only.
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "29503")


redirect_cuda_to_cpu()
