"""CVPR 2025, Table 2: self-supervised pretraining with MAE and DINO, then fine-tuning.

    Hardware   pretraining: 64 GPUs (MAE), 32 (DINO, patch size 16), 176 (DINO, patch size 8);
               fine-tuning: 32 GPUs
    Time       MAE ViT-L: 42 hours of pretraining on 64 V100s, 9 of fine-tuning on 32; MAE ViT-B:
               7 of fine-tuning (the official releases' figures). DINO: the release states no time,
               so the hours requested here are a guess
    Command    make table2 SCALE=paper CLUSTER=slurm        DRY=1 prints the plan only
    Smoke      make table2                                  smoke/table02.py

Each cell is two runs: a ViT is pretrained on ImageNet-1K without labels, then fine-tuned on it. DyT
with α0 = 0.5 replaces every LayerNorm in both, MAE's decoder included. All settings are those of
the official releases. DINO has no fine-tuning recipe, so MAE's recipe for ViT-B is used, as the
authors' release says. docs/SETTINGS.md gives the source of each value.
"""

from dataclasses import replace

from dyt_vision.config import DINO, MAE, FineTuning
from matched import Resources, Run, Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT

PRETRAIN_MAE = "dyt_vision.mae:pretrain"
PRETRAIN_DINO = "dyt_vision.dino:pretrain"
FINE_TUNE = "dyt_vision.finetuning:train"


def rate(base: float, batch: int) -> float:
    """Scale ``base``, the learning rate per 256 images that both releases state, to ``batch``."""
    return base * batch / 256


MAE_B = MAE(
    data="imagenet",
    epochs=800,
    warmup_epochs=40,
    batch=4096,
    micro_batch=64,
    lr=rate(1.5e-4, 4096),
    weight_decay=0.05,
    betas=(0.9, 0.95),
    precision="fp16",
    crop_scale=(0.2, 1.0),
    eval_epochs=40,
)
MAE_L = replace(MAE_B, width=1024, depth=24, heads=16)

DINO_B16 = DINO(
    data="imagenet",
    epochs=400,
    warmup_epochs=10,
    batch=1024,
    micro_batch=32,
    lr=rate(7.5e-4, 1024),
    min_lr=2e-6,
    weight_decay=0.04,
    clip_each=0.3,
    eval_epochs=20,
)
DINO_B8 = replace(
    DINO_B16,
    patch_size=8,
    epochs=300,
    batch=1056,
    micro_batch=6,
    lr=rate(5e-4, 1056),
    warmup_teacher_temperature=0.03,
    clip_each=3.0,
)

FINE_TUNE_B = FineTuning(
    model="vit_base_patch16_224",
    model_args=(("global_pool", "avg"),),
    data="imagenet",
    epochs=100,
    warmup_epochs=5,
    batch=1024,
    micro_batch=32,
    lr=rate(5e-4, 1024),
    min_lr=1e-6,
    weight_decay=0.05,
    layer_decay=0.65,
    precision="fp16",
    drop_path=0.1,
)
FINE_TUNE_L = replace(
    FINE_TUNE_B,
    model="vit_large_patch16_224",
    epochs=50,
    lr=rate(1e-3, 1024),
    layer_decay=0.75,
    drop_path=0.2,
)
FINE_TUNE_B8 = replace(FINE_TUNE_B, model="vit_base_patch8_224")


def mae(pretraining: MAE, tuning: FineTuning) -> Run:
    """Fine-tuning of an encoder that MAE pretrains."""
    need = Run(task=PRETRAIN_MAE, config=pretraining)
    return Run(task=FINE_TUNE, config=tuning, needs={"pretrained": need})


def dino(pretraining: DINO, tuning: FineTuning) -> Run:
    """Fine-tuning of an encoder that DINO pretrains."""
    need = Run(task=PRETRAIN_DINO, config=pretraining)
    return Run(task=FINE_TUNE, config=tuning, needs={"pretrained": need})


PRETRAINING = Resources(gpus=64, cpus=10, memory_gb=48, minutes=48 * 60)
PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "mae_vit_b": mae(MAE_B, FINE_TUNE_B),
        "mae_vit_l": mae(MAE_L, FINE_TUNE_L),
        "dino_b16": dino(DINO_B16, FINE_TUNE_B),
        "dino_b8": dino(DINO_B8, FINE_TUNE_B8),
    },
    resources=Resources(gpus=32, cpus=10, memory_gb=48, minutes=12 * 60),
    resource_overrides={
        "mae_vit_b/pretrained": PRETRAINING,
        "mae_vit_l/pretrained": PRETRAINING,
        "dino_b16/pretrained": replace(PRETRAINING, gpus=32, minutes=96 * 60),
        "dino_b8/pretrained": replace(PRETRAINING, gpus=176, minutes=96 * 60),
    },
)

TABLE = Table(arms=LN_VS_DYT, scales=(PAPER,))
