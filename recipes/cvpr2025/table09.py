"""CVPR 2025, Table 9: ViT-B with and without the learnable α, for three functions.

γ·f(αx) + β against γ·f(x) + β with f = tanh, hardtanh or the sigmoid; everything else as in
Table 1. The row with α has the runs of Table 8.

Paper scale: as Table 1, about 3.5 hours on 64 A100s for each run, by its operations.

    make table9                                   # smoke scale, on this machine, minutes
    make table9 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make table9 SCALE=paper CLUSTER=slurm
"""

from collections.abc import Mapping

from dyt import Norm
from matched import Arm, Run, Scale, Table, derive_run
from recipes.cvpr2025 import table01

FUNCTIONS = ("tanh", "hardtanh", "sigmoid")


def rows(run: Run, functions: tuple[str, ...], alpha0: float) -> dict[str, Mapping[str, Run]]:
    """The rows without and with α of a model."""
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
    runs=rows(table01.PAPER.runs["vit_b"], FUNCTIONS, alpha0=0.5),
    resources=table01.PAPER.resources,
)

SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs=rows(table01.SMOKE.runs["vit_b"], FUNCTIONS, alpha0=0.5),
    resources=table01.SMOKE.resources,
    note="4 blocks of width 64 on images of 16 × 16 pixels.",
)

TABLE = Table(arms=tuple(Arm(name=f) for f in FUNCTIONS), scales=(SMOKE, PAPER))
