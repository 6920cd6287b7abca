"""Smoke scale of Table 7: a small LLaMA on the CPU, by the CPU time of the process."""

from dyt_llama.latency_config import Latency
from dyt_llama.network_config import Network
from matched import Resources, Scale
from recipes.cvpr2025.table07 import SHARE_NOTE, SHARES, timed

NETWORK = Network(width=64, depth=4, heads=4, kv_heads=4, ffn=172, vocabulary=500, positions=512)

SCALE = Scale(
    name="smoke",
    seeds=(0, 1, 2),
    runs={
        "llama_7b": timed(
            Latency(
                network=NETWORK,
                device="cpu",
                dtype="float32",
                length=512,
                rounds=40,
                warmup_rounds=3,
            )
        )
    },
    resources=Resources(cpus=1, memory_gb=2, minutes=1, runs_per_job=3),
    metrics=tuple(SHARES.values()),
    note=(
        f"{SHARE_NOTE} LLaMA with 4 blocks of width 64 and 7B's ratios of feed-forward width and "
        "vocabulary to width, on one sequence of 512 tokens, in float32, by CPU time of one thread."
    ),
)
