"""Mini scale of Table 4: LLaMAs of widths 64 to 256 on docstrings, with a searched α0.

    Command    make table4 SCALE=mini
    Time       45 minutes on one core for 12 runs of RMSNorm (estimated); DyT's are Table 11's

As in the paper, the α0 of DyT is the best of Table 11's search by the training loss. No other
setting was tuned but the learning rate, which is RMSNorm's best. There are no zero-shot scores:
these networks are too small for the paper's tasks. It has not been run yet.
"""

from matched import Run, Scale
from recipes.cvpr2025.mini.table11 import SEARCHES, SIZES
from recipes.cvpr2025.table04 import METRICS, PRETRAIN
from recipes.mini_text import NOTE, RESOURCES, SEEDS, TEXT, TOKENIZING, pretraining, resources

RMSNORM = {
    row: Run(task=PRETRAIN, config=pretraining(*size), needs={"tokens": TEXT})
    for row, size in SIZES.items()
}

SCALE = Scale(
    name="mini",
    seeds=SEEDS,
    runs={row: {"RMSNorm": RMSNORM[row], "DyT": SEARCHES[row]} for row in SIZES},
    resources=RESOURCES,
    resource_overrides={
        **{row: resources(*size) for row, size in SIZES.items()},
        **{f"{row}/tokens": TOKENIZING for row in SIZES},
    },
    labels={row: f"{width} × {depth}" for row, (width, depth) in SIZES.items()},
    note=f"Rows are width × depth. α0 is chosen by the training loss, as in the paper. {NOTE}",
    metrics=METRICS,
)
