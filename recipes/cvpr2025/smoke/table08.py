"""Smoke scale of Table 8: toy ViTs on the digits, at a depth and rate where the identity fails.

Top-1 of tanh and of the identity in the settings tried, ViT-S, seed 0:

    blocks  learning rate  epochs    tanh  identity
    4       3e-3           20        90.6      92.8    Table 1's
    8       4e-3           12        74.7      79.4
    12      3e-3           10        57.5      47.2
    4       6e-3           10        68.1      35.6
    8       5e-3           10        65.0       9.7    chosen
    4, 8    1e-2            8        neither trains
"""

from dataclasses import replace

from dyt import Norm
from dyt_vision.config import Supervised
from matched import ArmNorms, Run, Scale
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.smoke.table01 import tiny_vit
from recipes.cvpr2025.table01 import TASK, VIT_B
from recipes.cvpr2025.table08 import FUNCTIONS, VIT_S
from recipes.smoke_norms import ALPHA0, REASON


def deep_vit(config: Supervised, *, width: int, heads: int = 4) -> Run:
    """A ViT twice as deep as Table 1's, at a higher learning rate, for half as many epochs."""
    deep = tiny_vit(config, embed_dim=width, depth=8, num_heads=heads)
    return Run(task=TASK, config=replace(deep, lr=5e-3, epochs=10, eval_epochs=2))


DEPTH_NOTE = (
    "Twice the depth of Table 1 and a higher learning rate, because with Table 1's the identity "
    "trains as well as tanh. Chance level is 10 %."
)

SCALE = Scale(
    name="smoke",
    arm_norms=ArmNorms(
        norms={f: Norm.dyt(alpha0=ALPHA0, squash=f) for f in FUNCTIONS}, reason=REASON
    ),
    seeds=(0,),
    runs={"vit_s": deep_vit(VIT_S, width=48), "vit_b": deep_vit(VIT_B, width=64)},
    resources=table01.SCALE.resources,
    note=(
        "Toy models: 8 blocks of width 48 (ViT-S) and 64 (ViT-B), images of 16 × 16 pixels. "
        f"{DEPTH_NOTE}"
    ),
)
