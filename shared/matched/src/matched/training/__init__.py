"""The training loop shared by all domains without a trainer of their own; requires torch."""

from matched.training.distributed import all_gather_objects, process_group, sum_over_ranks
from matched.training.fingerprint import weights_digest
from matched.training.learner import Hooks, Learner, StepInfo
from matched.training.loop import fit
from matched.training.seeding import reseed

__all__ = [
    "Hooks",
    "Learner",
    "StepInfo",
    "all_gather_objects",
    "fit",
    "process_group",
    "reseed",
    "sum_over_ranks",
    "weights_digest",
]
