"""CVPR 2025, Table 5: validation loss of wav2vec 2.0 Base and Large pretrained on LibriSpeech.

    Hardware   64 GPUs for Base, 128 for Large; with fewer GPUs, each computes several of an
               update's micro-batches
    Time       1.6 days on 64 V100s for Base, 2.3 days on 128 for Large (wav2vec 2.0 paper,
               Section 4.2)
    Command    make table5 SCALE=paper CLUSTER=slurm        DRY=1 prints the plan only
    Smoke      make table5                                  smoke/table05.py

fairseq's own trainer does the pretraining. DyT with α0 = 0.5 replaces the Transformer's LayerNorms
and the one after the feature extractor; the convolutional feature extractor keeps its norms. Base
uses the settings of fairseq's wav2vec2_base_librispeech, Large those of the authors' release;
docs/SETTINGS-WAV2VEC.md gives the source of each value. The validation loss is the mean over 8
passes, which use the same masks and crops in all runs, with its standard error: a single pass of
fairseq's validation has noise as large as the paper's differences.
"""

from dataclasses import replace

from dyt_wav2vec.config import BASE, LARGE, Preparation, Pretraining
from matched import Metric, Resources, Run, Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT

PREPARE = "dyt_wav2vec.preparation:prepare"
PRETRAIN = "dyt_wav2vec.pretraining:pretrain"

BASE_RUN = Pretraining(
    network=BASE,
    updates=400_000,
    micro_batches_per_update=64,
    max_tokens=1_400_000,
    max_sample_size=250_000,
    lr=5e-4,
    warmup_updates=32_000,
)
LARGE_RUN = Pretraining(
    network=LARGE,
    updates=250_000,
    micro_batches_per_update=128,
    max_tokens=1_200_000,
    max_sample_size=320_000,
    lr=3e-4,
    warmup_updates=20_000,
)
LIBRISPEECH = Run(task=PREPARE, config=Preparation(data="librispeech"))


def pretrained(config: Pretraining, speech: Run = LIBRISPEECH) -> Run:
    """Pretraining on the files that the run ``speech`` lists."""
    return Run(task=PRETRAIN, config=config, needs={"speech": speech})


METRICS = (
    Metric(key="loss", label="validation loss", direction="lower"),
    Metric(key="loss_se", label="its standard error", direction="none"),
    Metric(key="accuracy", label="contrastive accuracy", unit="%", direction="higher"),
    Metric(key="code_perplexity", label="code perplexity", direction="none"),
)

# Six data-loading workers per GPU, as in fairseq's settings.
GPUS = Resources(gpus=64, cpus=7, memory_gb=40, minutes=40 * 60)
LISTING = Resources(cpus=4, memory_gb=8, minutes=3 * 60)
"""Resources of the preparation, which opens every file once."""

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={"wav2vec2_base": pretrained(BASE_RUN), "wav2vec2_large": pretrained(LARGE_RUN)},
    resources=GPUS,
    resource_overrides={
        "wav2vec2_large": replace(GPUS, gpus=128, minutes=56 * 60),
        "wav2vec2_base/speech": LISTING,
        "wav2vec2_large/speech": LISTING,
    },
    metrics=METRICS,
)

TABLE = Table(arms=LN_VS_DYT, scales=(PAPER,))
