"""Fingerprint of an unmodified script: its initial weights and first inputs, at the first steps.

Both arms of a matched pair must have the same. The weights are those of all networks with norm
layers, outside of these layers, before the first optimizer step; the inputs are those of the
networks' forward passes before each of the first steps, in this process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from dyt.replacing_block import Block
from matched.training.fingerprint import BATCHES, batch_digest, digest_of, weights_digest


@contextmanager
def recorded_initial_state(block: Block, file: Path) -> Iterator[None]:
    """Write {"weights": …, "batches": […]} to `file` during the first optimizer steps."""
    recorder = _Recorder(block, file)
    handle = register_optimizer_step_pre_hook(recorder.before_step)
    module_handle = nn.modules.module.register_module_forward_pre_hook(recorder.before_forward)
    recorder.module_handle = module_handle
    try:
        yield
    finally:
        handle.remove()
        module_handle.remove()


class _Recorder:
    def __init__(self, block: Block, file: Path) -> None:
        self.block, self.file = block, file
        self.steps = 0
        self.weights: str | None = None
        self.batches: list[str] = []
        self.inputs: list[str] = []
        """Digests of the inputs since the last step."""
        self.expected: set[nn.Module] | None = None
        """Modules of which the first one that has inputs is recorded; None for any of a network."""
        self.module_handle: RemovableHandle | None = None

    def networks(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """Return the networks that are in use, with the paths of their norm layers."""
        found = [(network.module(), network.report.paths) for network in self.block.networks]
        return [(module, paths) for module, paths in found if module is not None and paths]

    def before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        networks = [network for network, _ in self.networks()]
        # A hook for all modules gets no keywords, and scripts call methods of a network, too. Then
        # the inputs of the first module inside are those of the network.
        if any(module is network for network in networks):
            self.expected = set(module.modules())
        elif self.expected is None:
            self.expected = {part for network in networks for part in network.modules()}
        if inputs and module in self.expected:
            self.inputs.append(batch_digest(inputs))
            self.expected = set()

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, options: Any) -> None:
        if self.steps > BATCHES or len(self.batches) == BATCHES:
            return
        self.steps += 1
        if self.weights is None:
            self.weights = digest_of(
                weights_digest(module, paths) for module, paths in self.networks()
            )
        # Lightning's forward passes run inside the optimizer's step: the first has no inputs yet.
        if self.inputs:
            self.batches.append(digest_of(self.inputs))
        self.inputs, self.expected = [], None
        last = self.steps > BATCHES or len(self.batches) == BATCHES
        if last and self.module_handle is not None:
            self.module_handle.remove()  # forward passes are as fast as without it from here on
        partial = self.file.with_name(f"{self.file.name}.partial")
        content = {"weights": self.weights, "batches": self.batches}
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, self.file)
