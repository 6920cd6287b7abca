"""CVPR 2025, Table 4: training loss of LLaMA 7B, 13B, 34B and 70B with RMSNorm and with DyT.

    Hardware   512 GPUs for 7B and 13B, 1,024 for 34B and 70B; with fewer GPUs, each computes
               several of a step's micro-batches, if its memory has room for its part of the state
    Time       12, 23, 30 and 61 hours (from fms-fsdp's published tokens per second of an H100,
               not measured); before that, the text is tokenized once
    Command    make table4 SCALE=paper CLUSTER=slurm        DRY=1 prints the plan only
    Smoke      make table4                                  smoke/table04.py

200 billion tokens of the text in site.toml; the paper has the Pile. α0 of the layers before
attention and of all others is that of Table 11. The DyT arm has a learnable scalar, initially √d,
on the token embedding, as in the authors' release. The release's baseline is stock fms-fsdp with
another data loader; here both arms have the same batches. The mean score of 15 zero-shot tasks is
not computed yet. docs/SETTINGS-LLAMA.md gives the source of each value.
"""

from dataclasses import replace

from dyt import Norm
from dyt_llama.config import Pretraining, Tokenization
from dyt_llama.network_config import LLAMA_7B, LLAMA_13B, LLAMA_34B, LLAMA_70B, Network
from matched import Arm, Metric, Resources, Run, Scale, Table

TOKENIZE = "dyt_llama.tokenization:tokenize"
PRETRAIN = "dyt_llama.pretraining:pretrain"

EMBEDDING_SCALE = (
    "with DyT a learnable scalar multiplies the token embedding (ICLR 2025 submission, Section "
    "4.2); the comparison of initial weights leaves it out"
)
RMSNORM = Arm(name="RMSNorm", norm=Norm.own())
DYT = Arm(name="DyT", allowed_differences={"embedding_scale": EMBEDDING_SCALE})
RMSNORM_VS_DYT = (RMSNORM, DYT)
"""The α0 of the arm DyT depends on the row."""

LENGTH = 4096
BATCH = 1024
"""Samples of a step, 4.2 million tokens: 512 GPUs × 2, or 1,024 × 1."""
TOKENS = 200e9

PILE = Run(task=TOKENIZE, config=Tokenization())

METRICS = (
    Metric(key="loss", label="training loss", direction="lower"),
    Metric(key="validation_loss", label="validation loss", direction="lower"),
    Metric(key="perplexity", label="perplexity", direction="lower"),
    Metric(key="bits_per_byte", label="bits per byte", direction="lower"),
)


def alpha0(attention: float, other: float) -> Norm:
    """DyT with one α0 before attention and another elsewhere."""
    return Norm.dyt(alpha0=other, alpha0_at=(("*.input_layernorm", attention),))


def arms(config: Pretraining, dyt: Norm, tokens: Run) -> dict[str, Run]:
    """The runs of a row: arm → run."""
    with_dyt = replace(config, norm=dyt, embedding_scale=True)
    return {
        arm.name: Run(task=PRETRAIN, config=one, needs={"tokens": tokens})
        for arm, one in ((RMSNORM, config), (DYT, with_dyt))
    }


def llama(network: Network, *, lr: float, micro_batch: int, checkpointed: float) -> Pretraining:
    """Pretraining with the release's settings."""
    return Pretraining(
        network=network,
        steps=round(TOKENS / BATCH / LENGTH),
        batch=BATCH,
        micro_batch=micro_batch,
        length=LENGTH,
        lr=lr,
        min_lr=lr / 10,
        schedule="fms-fsdp",
        precision="bf16-params",
        checkpointed=checkpointed,
        compile=True,
        log_steps=10,
        eval_steps=2000,
    )


RUN_7B = llama(LLAMA_7B, lr=3e-4, micro_batch=2, checkpointed=0.0)

# One data-loading worker per GPU; 24 GB per process for a file of exported weights. Each node has a
# copy of the weights of 7B and 13B (HSDP); those of 34B and 70B are sharded over all GPUs.
GPUS = Resources(gpus=512, cpus=2, memory_gb=64, minutes=12 * 60, shard=True, shard_degree=8)
ALL_GPUS = replace(GPUS, gpus=1024, shard_degree=0)
TEXT = Resources(processes=32, cpus=1, memory_gb=8, minutes=8 * 60)
"""Resources of the tokenization, of which each process takes one file at a time."""

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "llama_7b": arms(RUN_7B, alpha0(0.8, 0.2), PILE),
        "llama_13b": arms(
            llama(LLAMA_13B, lr=3e-4, micro_batch=2, checkpointed=0.5), alpha0(0.6, 0.15), PILE
        ),
        "llama_34b": arms(
            llama(LLAMA_34B, lr=1.5e-4, micro_batch=1, checkpointed=0.5), alpha0(0.2, 0.05), PILE
        ),
        "llama_70b": arms(
            llama(LLAMA_70B, lr=1.5e-4, micro_batch=1, checkpointed=1.0), alpha0(0.2, 0.05), PILE
        ),
    },
    resources=GPUS,
    resource_overrides={
        "llama_13b": replace(GPUS, minutes=23 * 60),
        "llama_34b": replace(ALL_GPUS, minutes=30 * 60),
        "llama_70b": replace(ALL_GPUS, minutes=61 * 60),
        **{f"llama_{size}/tokens": TEXT for size in ("7b", "13b", "34b", "70b")},
    },
    metrics=METRICS,
)

TABLE = Table(arms=RMSNORM_VS_DYT, scales=(PAPER,))
