"""CVPR 2025, Table 5: validation loss of wav2vec 2.0 pretrained on LibriSpeech, Base and Large.

fairseq's own trainer pretrains; DyT with α0 = 0.5 takes the place of the Transformer's LayerNorms
and of the one of the features, and the convolutional feature extractor keeps its own. Base has the
settings of fairseq's wav2vec2_base_librispeech, Large those that the authors' release brings;
docs/SETTINGS-WAV2VEC.md tells where each number comes from. The validation loss is a mean over 8
passes that draw the same masks and crops for all runs, with its standard error beside it: one pass
of fairseq's has a noise as large as the paper's differences.

Paper scale: wav2vec 2.0 took 1.6 days on 64 V100 (Base) and 2.3 days on 128 (Large) in its own
paper (Section 4.2). On fewer GPUs, each computes several of an update's micro-batches in turn.

    make table5                                   # smoke scale, on this machine, minutes
    make table5 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make table5 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from dyt_wav2vec.config import BASE, LARGE, Network, Preparation, Pretraining
from matched import Arm, Metric, Resources, Run, Scale, Table

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
    return Run(task=PRETRAIN, config=config, needs={"speech": speech})


METRICS = (
    Metric(key="loss", label="validation loss", direction="lower"),
    Metric(key="loss_se", label="its standard error", direction="none"),
    Metric(key="accuracy", label="contrastive accuracy", unit="%", direction="higher"),
    Metric(key="code_perplexity", label="code perplexity", direction="none"),
)

# Six loading processes for each GPU, as in fairseq's settings.
GPUS = Resources(gpus=64, cpus=7, memory_gb=40, minutes=40 * 60)
LOOKING = Resources(cpus=4, memory_gb=8, minutes=3 * 60)
"""Of a preparation, which opens every file once."""

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={"wav2vec2_base": pretrained(BASE_RUN), "wav2vec2_large": pretrained(LARGE_RUN)},
    resources=GPUS,
    resource_overrides={
        "wav2vec2_large": replace(GPUS, gpus=128, minutes=56 * 60),
        "wav2vec2_base/speech": LOOKING,
        "wav2vec2_large/speech": LOOKING,
    },
    metrics=METRICS,
)

SYNTHETIC = Run(task=PREPARE, config=Preparation(data="synthetic-speech"))
TINY = Network(
    # One frame in 20 ms, as in the real ones.
    conv_feature_layers=((64, 40, 20), (512, 16, 16)),
    encoder_layers=2,
    encoder_embed_dim=64,
    encoder_ffn_embed_dim=256,
    encoder_attention_heads=4,
    final_dim=32,
    latent_vars=16,
    latent_temp=(0.5, 0.5, 1.0),
    conv_pos=32,
    conv_pos_groups=4,
    mask_length=5,
    num_negatives=50,
    dropout=0.0,
    attention_dropout=0.0,
    dropout_input=0.0,
    dropout_features=0.0,
    encoder_layerdrop=0.0,
)
TINY_RUN = Pretraining(
    network=TINY,
    data="synthetic-speech",
    updates=400,
    micro_batches_per_update=1,
    max_tokens=256_000,
    max_sample_size=32_000,
    lr=5e-3,
    warmup_updates=40,
    precision="fp32",
    eval_updates=200,
    log_updates=20,
)


def tiny(*, depth: int = 2, first: bool) -> Run:
    """Pretraining on synthetic speech; ``first``: with pre-norm blocks."""
    network = replace(TINY, encoder_layers=depth, layer_norm_first=first)
    return pretrained(replace(TINY_RUN, network=network), SYNTHETIC)


SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs={
        "wav2vec2_base": tiny(first=False),
        "wav2vec2_large": tiny(depth=3, first=True),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=8),
    note=(
        "Post-norm (Base, 2 blocks of width 64) and pre-norm (Large, 3 blocks) learn to tell a "
        "masked step of synthetic speech from 50 others of its utterance, in 400 updates of 8 "
        "crops of 2 s. Chance level is 5.67 in the contrastive part of the loss; at most 32 codes "
        "can be in use."
    ),
    metrics=METRICS,
)

TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(alpha0=0.5))),
    scales=(SMOKE, PAPER),
)
