"""Memory of a run's processes on their devices, estimated by its config before a submission."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

from matched.table import Resources

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on the device of one process at the peak of a training step.

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
