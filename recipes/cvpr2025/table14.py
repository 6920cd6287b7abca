"""CVPR 2025, Table 14: results at α0 = 0.5 and at a tuned α0, compared with LN.

    Hardware   as Tables 1, 2, 3, 5 and 6
    Time       as these tables with DyT only, four times: each row has four other α0
    Command    make table14 SCALE=paper CLUSTER=slurm       DRY=1 prints the plan only
    Smoke      make table14                                 smoke/table14.py

The α0 that the paper tried are not printed. Here they are a fifth, half, twice and four times 0.5;
the tuned α0 of all three rows in which the paper reports a gain is among them. A row's α0 is that
of all its runs, such as pretraining and fine-tuning. "No gain" means that no other α0 is better.
DNA has only half and twice 0.5, because a cell has 160 fine-tunings. The runs with LN and with 0.5
are those of the other tables.
"""

from collections.abc import Sequence

from matched import Arm, Run, Scale, Search, Table
from recipes.cvpr2025 import table01, table02, table03, table05, table06
from recipes.cvpr2025.arms import ALPHA0, DYT, LN
from recipes.cvpr2025.table13 import ZERO_INIT
from recipes.cvpr2025.tuning import alpha0_search, resources_of, run_of

ARMS = (
    LN,
    Arm(name="DyT (original)", norm=DYT.norm, allowed_differences=ZERO_INIT),
    Arm(name="DyT (tuned)", allowed_differences=ZERO_INIT),
)


def row(
    scale: Scale, name: str, metric: str, values: Sequence[float], original: float
) -> dict[str, Run | Search]:
    """A row of another table with α0 tuned."""
    run = run_of(scale.runs[name], DYT.name)
    return {
        "LN": run_of(scale.runs[name], LN.name),
        "DyT (original)": run,
        "DyT (tuned)": alpha0_search(run, values, metric, original=original),
    }


VALUES = (0.1, 0.25, 0.5, 1.0, 2.0)
TABLES = (
    (table01.PAPER, "top1", VALUES),
    (table02.PAPER, "top1", VALUES),
    (table03.PAPER, "fid", VALUES),
    (table05.PAPER, "loss", VALUES),
    (table06.PAPER, "accuracy", (0.25, 0.5, 1.0)),
)
"""The tables whose rows are tuned, the metric that decides, and the α0 tried."""

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        name: row(scale, name, metric, values, ALPHA0)
        for scale, metric, values in TABLES
        for name in scale.runs
    },
    resources=table01.PAPER.resources,
    resource_overrides=resources_of(scale for scale, *_ in TABLES),
)

TABLE = Table(arms=ARMS, scales=(PAPER,))
