"""CVPR 2025, Table 13: results at the original and at a tuned learning rate, with LN and with DyT.

    Hardware   as Tables 1, 2, 3, 5 and 6
    Time       as these tables, three times: each row has three other rates, for both arms
    Command    make table13 SCALE=paper CLUSTER=slurm       DRY=1 prints the plan only
    Smoke      make table13                                 smoke/table13.py

The learning rate of the training is tuned: of the pretraining, where a row has one. The rates that
the paper tried are not printed. Here they are 0.5, 1 and 2 times the original one, and 1.5 times,
or instead of 1.5 the factor of a tuned rate that the paper prints for the model's kind: 4/3 for MAE
and DINO, 1.2 for wav2vec 2.0. DNA has half and twice the rate only, because a cell has 160
fine-tunings. "No gain" means that no other rate is better. DINO's rates are stated for 256 images,
as in its release. The runs at the original rates are those of the other tables.
"""

from collections.abc import Sequence

from matched import Arm, Run, Scale, Search, Table
from recipes.cvpr2025 import table01, table02, table03, table05, table06
from recipes.cvpr2025.arms import DYT, LN
from recipes.cvpr2025.tuning import learning_rate_search, resources_of, run_of

ZERO_INIT = {"zero_init": table03.NO_ZERO_INIT}
TUNED_RATE = {"lr": "it is tuned"}
ARMS = (
    Arm(name="LN (original)", norm=LN.norm),
    Arm(name="DyT (original)", norm=DYT.norm, allowed_differences=ZERO_INIT),
    Arm(name="LN (tuned)", norm=LN.norm, allowed_differences=TUNED_RATE),
    Arm(name="DyT (tuned)", norm=DYT.norm, allowed_differences=ZERO_INIT | TUNED_RATE),
)


def row(
    scale: Scale, name: str, metric: str, factors: Sequence[float], *, unit: float = 1.0
) -> dict[str, Run | Search]:
    """A row of another table with its learning rate tuned in both arms."""
    cells: dict[str, Run | Search] = {}
    for arm in (LN.name, DYT.name):
        run = run_of(scale.runs[name], arm)
        cells[f"{arm} (original)"] = run
        cells[f"{arm} (tuned)"] = learning_rate_search(run, factors, metric, unit=unit)
    return cells


FACTORS = (0.5, 1, 1.5, 2)
SELF_SUPERVISED = (0.5, 1, 4 / 3, 2)
SPEECH = (0.5, 1, 1.2, 2)
DNA = (0.5, 1, 2)

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        **{name: row(table01.PAPER, name, "top1", FACTORS) for name in table01.PAPER.runs},
        **{
            name: row(table02.PAPER, name, "top1", SELF_SUPERVISED)
            for name in ("mae_vit_b", "mae_vit_l")
        },
        **{
            name: row(table02.PAPER, name, "top1", SELF_SUPERVISED, unit=config.batch / 256)
            for name, config in (("dino_b16", table02.DINO_B16), ("dino_b8", table02.DINO_B8))
        },
        **{name: row(table03.PAPER, name, "fid", FACTORS) for name in table03.PAPER.runs},
        **{name: row(table05.PAPER, name, "loss", SPEECH) for name in table05.PAPER.runs},
        **{name: row(table06.PAPER, name, "accuracy", DNA) for name in table06.PAPER.runs},
    },
    resources=table01.PAPER.resources,
    resource_overrides=resources_of(
        table.PAPER for table in (table01, table02, table03, table05, table06)
    ),
)

TABLE = Table(arms=ARMS, scales=(PAPER,))
