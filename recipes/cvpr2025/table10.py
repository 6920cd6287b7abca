"""CVPR 2025, Table 10: DyT beside earlier ways to train without normalization.

Fixup and SkipInit (initialisation), σReparam (weight normalisation) and DyT, on ViT-B and -L
trained as in Table 1, and on MAE pretraining and fine-tuning as in Table 2. The paper searched the
learning rate of every method and prints only DyT's (its Table 13), and says that Fixup and SkipInit
needed significantly lower ones: a quarter of LN's here, to begin a search of one's own with
(``SHARE``). σReparam has LN's.

Paper scale: as Tables 1 and 2; the MAE rows pretrain once more for each method.

    make table10                                   # smoke scale, on this machine, minutes
    make table10 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make table10 SCALE=paper CLUSTER=slurm
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dyt import Norm
from dyt_vision.normfree import NormFree
from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table01, table02

SHARE = {"LN": 1.0, "Fixup": 0.25, "SkipInit": 0.25, "sigmaReparam": 1.0, "DyT": 1.0}
"""Learning rate of each method, as a share of LN's; of DyT where tuning did not help."""

TUNED_VIT_B = {**SHARE, "DyT": 6e-3 / 4e-3}
TUNED_MAE = {**SHARE, "DyT": 3.2e-3 / 2.4e-3}
"""The learning rates of Table 13. MAE's is that of pretraining."""


def searched(run: Run, shares: Mapping[str, float]) -> dict[str, Run]:
    """A row: the run with each method's learning rate."""
    return {arm: replace(run, config=at(run.config, share)) for arm, share in shares.items()}


def searched_mae(run: Run, shares: Mapping[str, float]) -> dict[str, Run]:
    """A row of fine-tuning, its pretraining with each method's learning rate."""
    need = run.needs["pretrained"]
    return {
        arm: replace(run, needs={"pretrained": replace(need, config=at(need.config, share))})
        for arm, share in shares.items()
    }


def at(config: Any, share: float) -> Any:
    """The config with a share of its learning rate, to the digits that a person would write."""
    return replace(config, lr=float(f"{config.lr * share:.6g}"))


def rows(supervised: Scale, pretrained: Scale) -> dict[str, dict[str, Run]]:
    return {
        "vit_b": searched(supervised.runs["vit_b"], TUNED_VIT_B),
        "vit_l": searched(supervised.runs["vit_l"], SHARE),
        "mae_vit_b": searched_mae(pretrained.runs["mae_vit_b"], TUNED_MAE),
        "mae_vit_l": searched_mae(pretrained.runs["mae_vit_l"], TUNED_MAE),
    }


TUNING = table02.PAPER.resources
PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=rows(table01.PAPER, table02.PAPER),
    resources=table01.PAPER.resources,
    resource_overrides={
        "mae_vit_b": TUNING,
        "mae_vit_l": TUNING,
        "mae_vit_b/pretrained": table02.PRETRAINING,
        "mae_vit_l/pretrained": table02.PRETRAINING,
    },
)


def shorter(run: Run) -> Run:
    """Of Table 1's smoke scale: ten networks are trained, and their MAE twins beside them."""
    return replace(run, config=replace(run.config, epochs=6, warmup_epochs=1, eval_epochs=3))


SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs=rows(
        replace(table01.SMOKE, runs={row: shorter(run) for row, run in table01.SMOKE.runs.items()}),
        table02.SMOKE,
    ),
    resources=table02.SMOKE.resources,
    note=(
        "ViT: 4 and 6 blocks of width 64 on images of 16 × 16 pixels, 6 epochs. MAE: the same "
        "blocks, pretrained on all digits without labels and fine-tuned on ten labelled digits of "
        "each class."
    ),
)

TABLE = Table(
    arms=(
        Arm(name="LN", norm=Norm.own()),
        Arm(
            name="Fixup",
            norm=NormFree(method="fixup"),
            allowed_differences={"weights": "it is another initialisation"},
        ),
        Arm(name="SkipInit", norm=NormFree(method="skipinit")),
        Arm(name="sigmaReparam", norm=NormFree(method="sigma_reparam")),
        Arm(name="DyT", norm=Norm.dyt(alpha0=0.5)),
    ),
    scales=(SMOKE, PAPER),
    allowed_differences={"lr": "the paper searched the learning rate of each method for itself"},
)
