"""CVPR 2025, Table 7: latency of LLaMA 7B, its norm layers alone and the whole model, in BF16.

    Hardware   1 GPU with 80 GB; the paper has an H100
    Time       under 4 minutes for the table (from the paper's times; not measured)
    Command    make table7 SCALE=paper                      CLUSTER=slurm for a node of a cluster
    Smoke      make table7                                  smoke/table07.py

One sequence of 4,096 random tokens through transformers' LLaMA 7B with random weights, in eager
mode: inference is a forward pass, training a forward and a backward pass. A run times all arms in
turns in one process, by events of the GPU, with the layers of the arms in one network. The number
of "layer" is the model's minus that of the model with Identity, as in the paper. The paper times
100 passes of each model one after the other; here a run has 8 of each in turns, after 2 that are
not counted, and the medians are scaled to 100. The seeds are repetitions.

RMSNorm is transformers', several operations, and DyT the formula, as in the paper; both are also
compiled by themselves, as in its appendix. "DyT, kernel" and Derf are this repository's kernels.
"""

from dyt_llama.latency_config import VARIANTS, Latency
from dyt_llama.network_config import LLAMA_7B
from matched import Arm, Metric, Resources, Run, Scale, Table

MEASURE = "dyt_llama.latency:measure"


def timed(config: Latency) -> dict[str, Run]:
    """The row of a network: one run for all arms."""
    return dict.fromkeys(VARIANTS, Run(task=MEASURE, config=config))


PARTS = {
    f"{passes}_{part}": f"{passes}, {part}"
    for passes in ("inference", "training")
    for part in ("layer", "model")
}
SECONDS = tuple(
    Metric(key=key, label=label, unit="s", direction="lower") for key, label in PARTS.items()
)
SHARES = {
    key: Metric(key=f"{key}_share", label=f"{label} share", unit="%", direction="lower")
    for key, label in PARTS.items()
}
SHARE_NOTE = "Shares are in per cent of the model with RMSNorm."

# 13.5 GB of weights, as much gradients, and what RMSNorm keeps for the backward pass.
GPU = Resources(gpus=1, cpus=4, memory_gb=32, minutes=10, runs_per_job=3)
PAPER = Scale(
    name="paper",
    seeds=(0, 1, 2),
    runs={
        "llama_7b": timed(
            Latency(
                network=LLAMA_7B,
                device="cuda",
                dtype="bfloat16",
                length=4096,
                rounds=8,
                warmup_rounds=2,
            )
        )
    },
    resources=GPU,
    metrics=(*SECONDS, SHARES["inference_layer"], SHARES["training_layer"]),
    note=f"Seconds are those of 100 passes, from medians of 8. {SHARE_NOTE}",
)

TABLE = Table(arms=tuple(Arm(name=name) for name in VARIANTS), scales=(PAPER,))
