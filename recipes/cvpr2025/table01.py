"""CVPR 2025, Table 1: supervised classification of ImageNet-1K, LayerNorm against DyT.

ViT-B and -L and ConvNeXt-B and -L, trained from scratch with one recipe; DyT takes the place of
every LayerNorm, with α0 = 0.5, and nothing else changes. The recipe is that of the authors'
release and of the earlier paper's Table 9, which follows ConvNeXt's.

Paper scale: 300 epochs at batch 4096 on 8 nodes of 8 GPUs with 64 images each, in TF32 as in
the authors' release. At a third of the peak of 64 A100s that comes to about 3.5 hours for the B
models, 7 for ConvNeXt-L and 12 for ViT-L: counted from the models' operations, not measured.

    make table1                                   # smoke scale, on this machine, minutes
    make table1 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make table1 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from dyt_vision.config import Supervised
from matched import Arm, Resources, Run, Scale, Table

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


def tiny(config: Supervised, **changes: object) -> Supervised:
    """The same recipe for a model and a data set that two CPU cores train in seconds.

    The augmentation that hides a digit or turns it into another one is off.
    """
    return replace(
        config,
        data="digits",
        image_size=16,
        epochs=20,
        warmup_epochs=2,
        batch=32,
        micro_batch=32,
        precision="fp32",
        ema_decay=0.98,
        crop_scale=(0.7, 1.0),
        crop_ratio=1.0,
        flip=0.0,
        rand_augment="",
        mixup=0.2,
        cutmix=0.0,
        erasing=0.1,
        drop_path=config.drop_path / 5,
        eval_epochs=4,
        eval_batch=360,
        log_steps=44,
        **changes,
    )


def tiny_vit(config: Supervised, **size: int) -> Supervised:
    arguments = (*config.model_args, ("img_size", 16), ("patch_size", 4), *size.items())
    return tiny(config, lr=3e-3, model_args=arguments)


def tiny_convnext(config: Supervised, dims: tuple[int, ...]) -> Supervised:
    arguments = (("ls_init_value", 0.1), ("patch_size", 2), ("output_stride", 8))
    return tiny(config, lr=4e-3, model_args=(*arguments, ("depths", (1, 1, 2, 1)), ("dims", dims)))


SMOKE = Scale(
    name="smoke",
    seeds=(0, 1),
    runs={
        "vit_b": Run(task=TASK, config=tiny_vit(VIT_B, embed_dim=64, depth=4, num_heads=4)),
        "vit_l": Run(task=TASK, config=tiny_vit(VIT_L, embed_dim=64, depth=6, num_heads=4)),
        "convnext_b": Run(task=TASK, config=tiny_convnext(CONVNEXT_B, (16, 32, 64, 64))),
        "convnext_l": Run(task=TASK, config=tiny_convnext(CONVNEXT_L, (24, 48, 96, 96))),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=8),
    note=(
        "Each model stands for its family at toy size (ViT: 4 and 6 blocks of width 64; ConvNeXt: "
        "5 blocks of width 16 to 64 and 24 to 96), on images of 16 × 16 pixels."
    ),
)

TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(alpha0=0.5))),
    scales=(SMOKE, PAPER),
)
