"""Harness for matched runs: plan, submit, resume and tabulate runs that differ in one thing only.

``import matched`` loads neither torch nor submitit. Modules that plan, show states or print tables
load no torch either; only ``matched.training`` does.
"""

from matched.config import TrainConfig
from matched.data import DataSource
from matched.memory import MemoryEstimate
from matched.run import Run, derive_run
from matched.search import Search, Trial
from matched.table import Arm, ArmNorms, Metric, Resources, Scale, Table
from matched.task import Context, Outcome

__all__ = [
    "Arm",
    "ArmNorms",
    "Context",
    "DataSource",
    "MemoryEstimate",
    "Metric",
    "Outcome",
    "Resources",
    "Run",
    "Scale",
    "Search",
    "Table",
    "TrainConfig",
    "Trial",
    "derive_run",
]
