"""Harness for matched experiments: plan, launch, resume and tabulate runs that differ in one thing.

Importing this package, planning, showing states and printing tables do not import torch; only
``matched.training`` does.
"""

from matched.config import TrainConfig
from matched.data import DataSource
from matched.run import Run, derive_run
from matched.table import Arm, Metric, Resources, Scale, Table
from matched.task import Context, Outcome

__all__ = [
    "Arm",
    "Context",
    "DataSource",
    "Metric",
    "Outcome",
    "Resources",
    "Run",
    "Scale",
    "Table",
    "TrainConfig",
    "derive_run",
]
