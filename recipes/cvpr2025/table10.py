"""CVPR 2025, Table 10: DyT compared with earlier methods that train without normalization.

    Hardware   as Tables 1 and 2; the MAE rows pretrain once per method
    Time       as Tables 1 and 2
    Command    make table10 SCALE=paper CLUSTER=slurm       DRY=1 prints the plan only
    Smoke      make table10                                 smoke/table10.py

Fixup and SkipInit (initialization), σReparam (weight normalization) and DyT, on ViT-B and ViT-L
trained as in Table 1, and on MAE pretraining and fine-tuning as in Table 2. The paper searched the
learning rate of every method but prints only DyT's (Table 13); it states that Fixup and SkipInit
needed significantly lower ones. ``LR_FACTOR`` gives them a quarter of LN's as the starting point of
a search; σReparam uses LN's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dyt_vision.normfree import NormFree
from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table01, table02
from recipes.cvpr2025.arms import DYT, LN

LR_FACTOR = {"LN": 1.0, "Fixup": 0.25, "SkipInit": 0.25, "sigmaReparam": 1.0, "DyT": 1.0}
"""Learning rate of each method relative to LN's, where tuning did not help DyT."""

LR_FACTOR_VIT_B = {**LR_FACTOR, "DyT": 6e-3 / 4e-3}
LR_FACTOR_MAE = {**LR_FACTOR, "DyT": 3.2e-3 / 2.4e-3}
"""With DyT's tuned learning rates of Table 13; MAE's is that of pretraining."""


def with_lr(run: Run, factors: Mapping[str, float]) -> dict[str, Run]:
    """A row: the run with each method's learning rate."""
    return {arm: replace(run, config=scale_lr(run.config, f)) for arm, f in factors.items()}


def with_pretraining_lr(run: Run, factors: Mapping[str, float]) -> dict[str, Run]:
    """A row of fine-tuning whose pretraining has each method's learning rate."""
    pretraining = with_lr(run.needs["pretrained"], factors)
    return {arm: replace(run, needs={"pretrained": need}) for arm, need in pretraining.items()}


def scale_lr(config: Any, factor: float) -> Any:
    """The config with its learning rate multiplied by ``factor``, to six significant digits."""
    return replace(config, lr=float(f"{config.lr * factor:.6g}"))


def rows(supervised: Scale, pretrained: Scale) -> dict[str, dict[str, Run]]:
    """The table's rows from the runs of Table 1 and Table 2 at one scale."""
    return {
        "vit_b": with_lr(supervised.runs["vit_b"], LR_FACTOR_VIT_B),
        "vit_l": with_lr(supervised.runs["vit_l"], LR_FACTOR),
        "mae_vit_b": with_pretraining_lr(pretrained.runs["mae_vit_b"], LR_FACTOR_MAE),
        "mae_vit_l": with_pretraining_lr(pretrained.runs["mae_vit_l"], LR_FACTOR_MAE),
    }


PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=rows(table01.PAPER, table02.PAPER),
    resources=table01.PAPER.resources,
    resource_overrides={
        "mae_vit_b": table02.PAPER.resources,
        "mae_vit_l": table02.PAPER.resources,
        "mae_vit_b/pretrained": table02.PRETRAINING,
        "mae_vit_l/pretrained": table02.PRETRAINING,
    },
)

TABLE = Table(
    arms=(
        LN,
        Arm(
            name="Fixup",
            norm=NormFree(method="fixup"),
            allowed_differences={"weights": "Fixup is another initialization"},
        ),
        Arm(name="SkipInit", norm=NormFree(method="skipinit")),
        Arm(name="sigmaReparam", norm=NormFree(method="sigma_reparam")),
        DYT,
    ),
    scales=(PAPER,),
    allowed_differences={"lr": "the paper searched the learning rate of each method separately"},
)
