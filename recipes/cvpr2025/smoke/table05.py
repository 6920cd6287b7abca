"""Smoke scale of Table 5: toy wav2vec 2.0 models pretrained on synthetic speech."""

from dataclasses import replace

from dyt_wav2vec.config import Network, Preparation, Pretraining
from matched import Resources, Run, Scale
from recipes.cvpr2025.table05 import METRICS, PREPARE, pretrained
from recipes.smoke_norms import SMOKE_NORMS

SYNTHETIC = Run(task=PREPARE, config=Preparation(data="synthetic-speech"))
TINY = Network(
    # One frame per 20 ms, as in the full-size models.
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


def tiny(*, depth: int = 2, pre_norm: bool) -> Run:
    """Pretraining of a toy model on synthetic speech."""
    network = replace(TINY, encoder_layers=depth, layer_norm_first=pre_norm)
    return pretrained(replace(TINY_RUN, network=network), SYNTHETIC)


TASK_NOTE = (
    "The task is to tell a masked step of synthetic speech from 50 others of its utterance; "
    "training takes 400 updates of 8 crops of 2 s. Chance level is 5.67 in the contrastive part of "
    "the loss; at most 32 codes can be in use."
)

SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs={
        "wav2vec2_base": tiny(pre_norm=False),
        "wav2vec2_large": tiny(depth=3, pre_norm=True),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=8),
    note=f"Base: 2 post-norm blocks of width 64. Large: 3 pre-norm blocks. {TASK_NOTE}",
    metrics=METRICS,
)
