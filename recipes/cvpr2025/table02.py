"""CVPR 2025, Table 2: self-supervised pretraining with MAE and DINO, then fine-tuning.

Each cell is two runs: ViT-B or -L is pretrained on ImageNet-1K without labels, then fine-tuned on
it. DyT takes the place of every LayerNorm in both, decoder included, with α0 = 0.5. All settings
are those of the official releases; DINO brings no fine-tuning, so that MAE's for ViT-B is used, as
the authors' release says. docs/SETTINGS.md tells where each number comes from.

Paper scale, by what the official releases report for V100s: MAE ViT-L 42 hours on 64 (800 epochs),
its fine-tuning 9 hours on 32, that of ViT-B 7. For DINO they name the GPUs (32 for patches of 16,
176 for patches of 8) and no time; the hours in this recipe are a guess.

    make table2                                   # smoke scale, on this machine, minutes
    make table2 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make table2 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from dyt_vision.config import DINO, MAE, FineTuning
from matched import Arm, Resources, Run, Scale, Table

PRETRAIN_MAE = "dyt_vision.mae:pretrain"
PRETRAIN_DINO = "dyt_vision.dino:pretrain"
FINE_TUNE = "dyt_vision.finetuning:train"


def rate(base: float, batch: int) -> float:
    """Learning rate of a batch: ``base`` is for 256 images, as both releases give it."""
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
    """Fine-tuning, and the pretraining that it needs."""
    need = Run(task=PRETRAIN_MAE, config=pretraining)
    return Run(task=FINE_TUNE, config=tuning, needs={"pretrained": need})


def dino(pretraining: DINO, tuning: FineTuning) -> Run:
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

TINY = {
    "data": "digits",
    "image_size": 16,
    "crop_ratio": 1.0,
    "flip": 0.0,
    "precision": "fp32",
    "batch": 32,
    "micro_batch": 32,
    "eval_batch": 360,
    "log_steps": 44,
}
"""What changes in every run at smoke scale: digits are not to be mirrored."""


def tiny_mae(config: MAE, *, depth: int) -> MAE:
    return replace(
        config,
        **TINY,
        patch_size=4,
        width=64,
        depth=depth,
        heads=4,
        decoder_width=32,
        decoder_depth=2,
        decoder_heads=4,
        epochs=15,
        warmup_epochs=2,
        lr=3e-3,
        crop_scale=(0.5, 1.0),
        eval_epochs=5,
    )


def tiny_dino(config: DINO, **size: int) -> DINO:
    return replace(
        config,
        **{**TINY, "batch": 16, "micro_batch": 16, **size},
        width=64,
        heads=4,
        epochs=7,
        warmup_epochs=1,
        lr=3e-4,
        min_lr=1e-6,
        final_weight_decay=0.04,
        init_std=0.12,
        crop_scale=(0.6, 1.0),
        crop_aspect=(0.9, 1.1),
        local_crops=2,
        local_scale=(0.4, 0.8),
        greyscale=0.0,
        blur=(0.0, 0.0, 0.0),
        solarize=0.0,
        drop_path=0.0,
        outputs=256,
        head_width=128,
        bottleneck=32,
        freeze_last_layer=1,
        teacher_momentum=0.99,
        teacher_temperature=0.02,
        warmup_teacher_temperature=0.02,
        bank=1437,
        eval_epochs=4,
    )


B16 = {"depth": 4, "image_size": 16, "patch_size": 4}
B8 = {"depth": 2, "image_size": 12, "patch_size": 2}
"""The sizes that stand for DINO's two at smoke scale."""


def tiny_tuning(
    config: FineTuning, *, depth: int, image_size: int = 16, patch_size: int = 4
) -> FineTuning:
    """Of ten labelled digits of each class, so that it matters where one starts from."""
    size = {"img_size": image_size, "patch_size": patch_size, "embed_dim": 64, "num_heads": 4}
    return replace(
        config,
        **{**TINY, "batch": 20, "micro_batch": 20, "image_size": image_size},
        model_args=(*config.model_args, *size.items(), ("depth", depth)),
        labels_per_class=10,
        epochs=30,
        warmup_epochs=3,
        lr=2e-3,
        layer_decay=0.75,
        crop_scale=(0.7, 1.0),
        rand_augment="",
        mixup=0.0,
        cutmix=0.0,
        erasing=0.0,
        drop_path=config.drop_path / 2,
        eval_epochs=10,
    )


SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs={
        "mae_vit_b": mae(tiny_mae(MAE_B, depth=4), tiny_tuning(FINE_TUNE_B, depth=4)),
        "mae_vit_l": mae(tiny_mae(MAE_L, depth=6), tiny_tuning(FINE_TUNE_L, depth=6)),
        "dino_b16": dino(
            tiny_dino(DINO_B16, **B16, local_size=12), tiny_tuning(FINE_TUNE_B, **B16)
        ),
        "dino_b8": dino(tiny_dino(DINO_B8, **B8, local_size=8), tiny_tuning(FINE_TUNE_B8, **B8)),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=4),
    note=(
        "Blocks of width 64 (4, and 6 for ViT-L) on images of 16 × 16 pixels in patches of 4; for "
        "DINO with patches of 8, 2 blocks on images of 12 × 12 in patches of 2. Pretrained on all "
        "digits without labels, fine-tuned on ten labelled digits of each class."
    ),
)

TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(alpha0=0.5))),
    scales=(SMOKE, PAPER),
)
