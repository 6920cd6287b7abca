"""Measurements of training steps: gradient norm, throughput and peak GPU memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Return the 2-norm of all gradients together, a scalar on their device.

    For sharded gradients this is a collective; the norm is equal on all processes.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class PerformanceMeter:
    """Samples per second and peak GPU memory since the last reading.

    The caller must have waited for the GPU before a reading, as copying the loss does.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Start a new reading."""
        self.samples = 0
        self.peak_mib = 0.0
        self.paused_seconds = 0.0
        self.start = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def add(self, samples: int, *, peak_mib: float = 0.0) -> None:
        """Count the samples of one optimizer step, over all processes.

        Args:
            peak_mib: peak memory of the step, for trainers that reset torch's own statistics.
        """
        self.samples += samples
        self.peak_mib = max(self.peak_mib, peak_mib)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block, an evaluation or a checkpoint, out of the throughput."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # steps that are queued count as training
        start = time.perf_counter()
        try:
            yield
        finally:
            self.paused_seconds += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Return the values since the last reading and start a new one; empty without samples.

        "samples_per_second" is over all processes and excludes ``paused`` blocks;
        "peak_memory_mib", on a GPU only, is this process's peak of allocated memory in MiB and
        includes them.
        """
        if not self.samples:
            return {}
        seconds = time.perf_counter() - self.start - self.paused_seconds
        values = {"samples_per_second": self.samples / seconds}
        if self.device.type == "cuda":
            peak_mib = torch.cuda.max_memory_allocated(self.device) / 2**20
            values["peak_memory_mib"] = max(self.peak_mib, peak_mib)
        self.restart()
        return values
