"""CVPR 2025, Table 1: supervised ImageNet-1K classification, LayerNorm against DyT.

    Hardware   64 GPUs: 8 nodes of 8, with 64 images on each GPU; TF32
    Time       3.5 hours for ViT-B and ConvNeXt-B, 7 for ConvNeXt-L, 12 for ViT-L on 64 A100s
               (estimated from operation counts at a third of the peak rate, not measured)
    Command    make table1 SCALE=paper CLUSTER=slurm        DRY=1 prints the plan only
    Smoke      make table1                                  smoke/table01.py

ViT-B, ViT-L, ConvNeXt-B and ConvNeXt-L are trained from scratch for 300 epochs at batch 4096. DyT
with α0 = 0.5 replaces every LayerNorm; nothing else changes. The settings are those of the authors'
release and of the ICLR submission's Table 9, which follows ConvNeXt's recipe. docs/SETTINGS.md
gives the source of each value.
"""

from dataclasses import replace

from dyt_vision.config import Supervised
from matched import Resources, Run, Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT

TASK = "dyt_vision.supervised:train"

VIT_B = Supervised(
    model="vit_base_patch16_224",
    model_args=(("global_pool", "avg"),),
    data="imagenet",
    epochs=300,
    warmup_epochs=20,
    batch=4096,
    micro_batch=64,
    lr=4e-3,
    min_lr=1e-6,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    ema_decay=0.9999,
    precision="tf32",
    label_smoothing=0.1,
    rand_augment="rand-m9-mstd0.5-inc1",
    mixup=0.8,
    cutmix=1.0,
    erasing=0.25,
    crop_ratio=0.875,
    drop_path=0.1,
)
VIT_L = replace(VIT_B, model="vit_large_patch16_224", drop_path=0.4, betas=(0.9, 0.95))
CONVNEXT_B = replace(
    VIT_B, model="convnext_base", model_args=(("ls_init_value", 1e-6),), drop_path=0.5
)
CONVNEXT_L = replace(CONVNEXT_B, model="convnext_large")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "vit_b": Run(task=TASK, config=VIT_B),
        "vit_l": Run(task=TASK, config=VIT_L),
        "convnext_b": Run(task=TASK, config=CONVNEXT_B),
        "convnext_l": Run(task=TASK, config=CONVNEXT_L),
    },
    resources=Resources(gpus=64, cpus=10, memory_gb=48, minutes=24 * 60),
)

TABLE = Table(arms=LN_VS_DYT, scales=(PAPER,))
