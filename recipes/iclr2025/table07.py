"""ICLR 2025 submission, Table 7: the best α0 of LLaMA by width and depth.

    Hardware   64 GPUs for a run
    Time       150 runs of 10.5 billion tokens, up to 9 hours each (from operation counts at 40 % of
               an H100's peak rate, not measured); 1.5 times that is requested, 2 hours at least
    Command    make iclr-table7 SCALE=paper CLUSTER=slurm   DRY=1 prints the plan only
    Smoke      make iclr-table7                             smoke/table07.py

Each of 25 networks is trained for 10,000 steps with six α0, one for all layers, and the α0 with the
lowest training loss is printed. The paper states width, depth, steps and the six values. Here
everything else is as in its Table 4, the learning rate of 3e-3 included, with a cosine that ends at
step 10,000. The heads and feed-forward widths of the networks follow LLaMA's rules (``llama_of``).
"""

from dataclasses import replace

from dyt_llama.config import Pretraining
from dyt_llama.network_config import Network, llama_of
from matched import Arm, Scale, Search, Table
from recipes.cvpr2025.searches import ALPHA0, LOSS, alpha0_search
from recipes.cvpr2025.table04 import GPUS, LENGTH, PILE, TEXT
from recipes.iclr2025.table04 import BATCH
from recipes.iclr2025.table04 import pretraining as table4

STEPS = 10_000
ALPHAS = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05)
WIDTHS = (1024, 2048, 3072, 4096, 5120)
DEPTHS = (8, 16, 24, 32, 40)


def pretraining(network: Network) -> Pretraining:
    """Table 4's settings for 10,000 steps."""
    micro_batch = 4 if network.width <= 2048 else 1
    config = table4(network, tokens=STEPS * BATCH * LENGTH, micro_batch=micro_batch)
    return replace(config, eval_steps=STEPS)


def search(network: Network) -> Search:
    """Search of a network's α0, with the time of its operations at 40 % of 64 H100s' peak rate."""
    weights = 12 * network.width**2 * network.depth + network.vocabulary * network.width
    seconds = 6 * weights * STEPS * BATCH * LENGTH / (64 * 0.4 * 1e15)
    return alpha0_search(pretraining(network), ALPHAS, PILE, minutes=round(max(120, seconds / 40)))


ROWS = {f"width_{width}": width for width in WIDTHS}
SEARCHING = replace(GPUS, gpus=64, minutes=120)

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        row: {str(depth): search(llama_of(width, depth)) for depth in DEPTHS}
        for row, width in ROWS.items()
    },
    resources=SEARCHING,
    resource_overrides={f"{row}/tokens": TEXT for row in ROWS},
    metrics=(ALPHA0, LOSS),
)

TABLE = Table(arms=tuple(Arm(name=str(depth)) for depth in DEPTHS), scales=(PAPER,))
