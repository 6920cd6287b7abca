"""CVPR 2025, Table 9: ViT-B with and without the learnable α, for three squashing functions.

    Hardware   64 GPUs, as Table 1
    Time       3.5 hours per run on 64 A100s (estimated from operation counts, not measured)
    Command    make table9 SCALE=paper CLUSTER=slurm        DRY=1 prints the plan only
    Smoke      make table9                                  smoke/table09.py

γ·f(αx) + β against γ·f(x) + β with f = tanh, hardtanh or sigmoid; everything else as in Table 1.
The row with α shares its runs with Table 8.
"""

from collections.abc import Mapping

from dyt import Norm
from matched import Arm, Run, Scale, Table, derive_run
from recipes.cvpr2025 import table01
from recipes.cvpr2025.arms import ALPHA0

FUNCTIONS = ("tanh", "hardtanh", "sigmoid")


def alpha_rows(
    run: Run, functions: tuple[str, ...], *, alpha0: float
) -> dict[str, Mapping[str, Run]]:
    """The rows of a model without and with α: row → {function: run}."""
    norms = {
        "without_alpha": {"alpha": "absent"},
        "with_alpha": {"alpha": "learnable", "alpha0": alpha0},
    }
    return {
        row: {f: derive_run(run, norm=Norm.dyt(squash=f, **alpha)) for f in functions}
        for row, alpha in norms.items()
    }


PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=alpha_rows(table01.PAPER.runs["vit_b"], FUNCTIONS, alpha0=ALPHA0),
    resources=table01.PAPER.resources,
)

TABLE = Table(arms=tuple(Arm(name=f) for f in FUNCTIONS), scales=(PAPER,))
