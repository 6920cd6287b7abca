"""A harness for matched runs: plan, submit, resume and tabulate runs that differ in one thing only.

``import matched`` loads neither torch nor submitit. Modules that plan, show states or draw tables
load no torch either; only ``matched.training`` does.
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
