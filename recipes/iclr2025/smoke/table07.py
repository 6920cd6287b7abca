"""Smoke scale of Table 7: the best α0 of toy LLaMAs by width and depth, on WordNet's glosses.

The paper's finding shows: the best α0 halves from width to width, and is the same at both depths.
Training loss, mean of seeds 0 and 1:

    width  layers  α0 = 0.5      1      2      4
    32     2          5.773  5.675  5.617  5.582
    32     4          5.829  5.814  5.730  5.679
    64     2          5.252  5.150  5.083  5.186
    64     4          5.461  5.235  5.105  5.342
    128    2          4.665  4.660  4.792  5.014
    128    4          4.741  4.719  4.990  5.503

At width 32 the best is the largest that was tried. After 300 steps instead of 150 (2 layers, seed
0, α0 = 0.5, 1, 2, 4, 8) the best is 2 at width 32 (5.259, 5.156, 5.055, 5.062, 5.114) and at 64
(4.725, 4.601, 4.574, 4.695, 4.855), and 0.5 at 128 (4.262, 4.277, 4.407, 4.582, 4.915).
"""

from dataclasses import replace

from dyt_llama.config import Pretraining
from matched import Resources, Scale
from recipes.cvpr2025.searches import ALPHA0, LOSS, alpha0_search
from recipes.cvpr2025.smoke import table04
from recipes.cvpr2025.smoke.table04 import GLOSSES

ALPHAS = (0.5, 1.0, 2.0, 4.0)
WIDTHS = {1024: 32, 2048: 64, 4096: 128}
DEPTHS = {8: 2, 16: 4}
"""The paper's width or depth → that of the toy network."""
HEAD = 16
"""Channels of a head."""
STEPS = 150
"""Half of Table 4's, so that there is time for two seeds."""


CONFIG = table04.SCALE.runs["llama_7b"]["DyT"].needs["pretrained"].config
"""Table 4's toy of LLaMA 7B: 64 channels, 2 layers."""


def toy(width: int, depth: int, *, head: int = HEAD, length: int = 64) -> Pretraining:
    """Table 4's toy pretraining for a network of any size; a step has the same tokens."""
    heads = width // head
    network = replace(
        CONFIG.network, width=width, depth=depth, heads=heads, kv_heads=heads, ffn=3 * width
    )
    batch = CONFIG.batch * CONFIG.length // length
    return replace(
        CONFIG,
        network=network,
        steps=STEPS,
        length=length,
        batch=batch,
        micro_batch=batch,
        eval_steps=STEPS,
    )


TOY_NOTE = (
    "Table 4's toys with heads of 16 channels, whose initial weights have the same standard "
    f"deviation at every width, {CONFIG.network.std}, as the paper's have. In parentheses and in "
    "the lines “paper”: what the paper has instead."
)

SCALE = Scale(
    name="smoke",
    seeds=(0, 1),
    runs={
        f"width_{paper}": {
            str(depth): alpha0_search(toy(width, tiny), ALPHAS, GLOSSES)
            for depth, tiny in DEPTHS.items()
        }
        for paper, width in WIDTHS.items()
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=1, runs_per_job=24),
    labels={
        **{f"width_{paper}": str(width) for paper, width in WIDTHS.items()},
        **{str(paper): str(depth) for paper, depth in DEPTHS.items()},
    },
    note=TOY_NOTE,
    metrics=(ALPHA0, LOSS),
)
