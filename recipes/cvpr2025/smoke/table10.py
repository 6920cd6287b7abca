"""Smoke scale of Table 10: toy ViTs and MAEs on the digits."""

from dataclasses import replace

from matched import Run, Scale
from recipes.cvpr2025.smoke import table01, table02
from recipes.cvpr2025.table10 import rows
from recipes.smoke_norms import SMOKE_NORMS


def shorter(run: Run) -> Run:
    """Table 1's run at smoke scale cut to 6 epochs, since this table trains many more networks."""
    return replace(run, config=replace(run.config, epochs=6, warmup_epochs=1, eval_epochs=3))


SUPERVISED = replace(
    table01.SCALE, runs={row: shorter(run) for row, run in table01.SCALE.runs.items()}
)

SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs=rows(SUPERVISED, table02.SCALE),
    resources=table02.SCALE.resources,
    note=(
        "Toy models: ViT with 4 and 6 blocks of width 64, images of 16 × 16 pixels, 6 epochs. MAE: "
        "the same blocks, pretrained on all digits without labels and fine-tuned on ten labeled "
        "digits per class."
    ),
)
