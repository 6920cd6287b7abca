"""Memory of a run's processes on their devices, estimated by its config before a submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from matched.run import Run
from matched.table import Resources

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on the device of one process at the peak of a training step, or of a forward pass.

    Memory of the driver and of libraries, and gaps of the allocator, are not included.

    Attributes:
        weights: this process's part of the weights, as the optimizer updates them.
        gradients: this process's part of the gradients.
        optimizer: this process's part of the optimizer's state.
        gathered: copies that exist while a part of the network computes: gathered weights, and
            gradients before they are reduced.
        activations: values kept for the backward pass, and the largest temporary ones.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@runtime_checkable
class EstimatesMemory(Protocol):
    """A config that estimates the memory of its run."""

    def memory(self, resources: Resources) -> MemoryEstimate:
        """Return the memory of the process that needs most.

        Raises:
            ValueError: if the batch does not divide over the processes.
        """


@runtime_checkable
class EstimatesMemoryWithNeeds(Protocol):
    """A config that estimates the memory of its run from the configs of the runs it needs."""

    def memory_with_needs(self, resources: Resources, needs: Mapping[str, Any]) -> MemoryEstimate:
        """Return the memory of the process that needs most; ``needs`` is name → config."""


def estimate_memory(run: Run, resources: Resources) -> MemoryEstimate | None:
    """Return the estimated memory of a process of a run; None if its config estimates none.

    Raises:
        ValueError: if the batch does not divide over the processes.
    """
    config = run.config
    if isinstance(config, EstimatesMemory):
        return config.memory(resources)
    if isinstance(config, EstimatesMemoryWithNeeds):
        needs = {name: need.config for name, need in run.needs.items()}
        return config.memory_with_needs(resources, needs)
    return None
