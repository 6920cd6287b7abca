"""Estimates of a run's memory: their sum, and which method of a config makes them."""

from dataclasses import dataclass

from matched import MemoryEstimate, Resources, Run
from matched.memory import estimate_memory

ESTIMATE = MemoryEstimate(weights=1, gradients=20, optimizer=300, gathered=4000, activations=50_000)
RESOURCES = Resources(gpus=2, minutes=1)


def test_total_is_the_sum_of_all_parts():
    assert ESTIMATE.total == 54_321


@dataclass(frozen=True, kw_only=True)
class Plain:
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class OfItself(Plain):
    def memory(self, resources):
        assert resources is RESOURCES
        return ESTIMATE


@dataclass(frozen=True, kw_only=True)
class OfItsNeeds(Plain):
    def memory_with_needs(self, resources, needs):
        assert (resources, needs) == (RESOURCES, {"start": Plain(width=3)})
        return ESTIMATE


def test_estimate_uses_the_config_or_those_of_needs():
    need = Run(task="m:f", config=Plain(width=3))
    for config, estimate in (
        (Plain(), None),
        (OfItself(), ESTIMATE),
        (OfItsNeeds(), ESTIMATE),
    ):
        run = Run(task="m:f", config=config, needs={"start": need})
        assert estimate_memory(run, RESOURCES) == estimate
