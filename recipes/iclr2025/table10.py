"""ICLR 2025 submission, Table 10: the best α0 of LLaMA by head dimension, length and width.

    Hardware   64 GPUs for a run
    Time       240 runs of 10,000 steps, of which 24 are Table 7's; up to 2 hours each (from
               operation counts, not measured)
    Command    make iclr-table10 SCALE=paper CLUSTER=slurm  DRY=1 prints the plan only
    Smoke      make iclr-table10                            smoke/table10.py

As Table 7, with networks of 8 layers. The rows are head dimensions of 32, 64 and 128 at a length of
4,096 tokens, and lengths of 1,024, 2,048 and 4,096 at a head dimension of 128: the third and the
last are the same runs. The paper does not say whether a step keeps its tokens when samples get
shorter: here it does, with 1,024 and 512 samples.
"""

from dataclasses import replace

from dyt_llama.network_config import llama_of
from matched import Arm, Scale, Search, Table
from recipes.cvpr2025.searches import ALPHA0, LOSS, alpha0_search
from recipes.cvpr2025.table04 import LENGTH, PILE, TEXT
from recipes.iclr2025.table07 import ALPHAS, SEARCHING, pretraining

DEPTH = 8
WIDTHS = (512, 1024, 1536, 2048, 2560, 3072, 3584, 4096)
ROWS = {
    "head_dim_32": (32, LENGTH),
    "head_dim_64": (64, LENGTH),
    "head_dim_128": (128, LENGTH),
    "seq_len_1024": (128, 1024),
    "seq_len_2048": (128, 2048),
    "seq_len_4096": (128, LENGTH),
}
"""Row → head dimension and length of the samples."""


def search(width: int, head_dim: int, length: int) -> Search:
    """Search of a network's α0; a step has the same tokens at every length."""
    heads = width // head_dim
    config = pretraining(llama_of(width, DEPTH, heads=heads, kv_heads=heads))
    samples = LENGTH // length
    config = replace(
        config,
        length=length,
        batch=config.batch * samples,
        micro_batch=config.micro_batch * samples,
    )
    return alpha0_search(config, ALPHAS, PILE)


PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        row: {str(width): search(width, *setting) for width in WIDTHS}
        for row, setting in ROWS.items()
    },
    resources=SEARCHING,
    resource_overrides={f"{row}/tokens": TEXT for row in ROWS},
    metrics=(ALPHA0, LOSS),
)

TABLE = Table(arms=tuple(Arm(name=str(width)) for width in WIDTHS), scales=(PAPER,))
