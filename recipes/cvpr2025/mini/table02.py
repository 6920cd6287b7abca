"""Mini scale of Table 2: encoders of width 128 and 192, pretrained and fine-tuned on the digits.

The settings are those of smoke scale, where LN is far from its ceiling, with larger networks and
batches and two to ten times the steps; they have not been tuned. The times are estimates: CPU time
of MAE's steps on a core that other programs shared (ViT-B 93 ms, ViT-L 185, and 12 for the data),
and wall time of an epoch of DINO (0.8 s a step on half a core). No run has been made in full.
"""

from dataclasses import replace

from dyt_vision.config import DINO, MAE, FineTuning
from matched import Resources, Scale
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.smoke.table02 import tiny_dino, tiny_mae, tiny_tuning
from recipes.cvpr2025.table02 import (
    DINO_B8,
    DINO_B16,
    FINE_TUNE_B,
    FINE_TUNE_B8,
    FINE_TUNE_L,
    MAE_B,
    MAE_L,
    dino,
    mae,
)
from recipes.mini_images import DIGITS, Images, Size, norms_by_width, vit_arguments

MAE_SIZES = {"mae_vit_b": DIGITS.vits["vit_b"], "mae_vit_l": DIGITS.vits["vit_l"]}
B16, B8 = DIGITS.vits["vit_b"], Size(width=128, depth=4, heads=4)
DIGITS_B8 = replace(DIGITS, image_size=12, patch_size=2)
"""The images of DINO with patch size 8."""


def mini_mae(config: MAE, size: Size) -> MAE:
    return replace(
        tiny_mae(config, depth=size.depth),
        width=size.width,
        heads=size.heads,
        decoder_width=64,
        batch=64,
        micro_batch=64,
        epochs=150,
        warmup_epochs=15,
        eval_epochs=50,
        log_steps=22,
    )


def mini_dino(config: DINO, images: Images, size: Size, *, local_size: int) -> DINO:
    tiny = tiny_dino(
        config,
        depth=size.depth,
        image_size=images.image_size,
        patch_size=images.patch_size,
        local_size=local_size,
    )
    return replace(
        tiny,
        width=size.width,
        heads=size.heads,
        init_std=0.09,
        outputs=512,
        head_width=256,
        bottleneck=64,
        batch=32,
        micro_batch=32,
        epochs=20,
        warmup_epochs=2,
        eval_epochs=5,
    )


def mini_tuning(config: FineTuning, images: Images, size: Size) -> FineTuning:
    tiny = tiny_tuning(
        config,
        depth=size.depth,
        image_size=images.image_size,
        patch_size=images.patch_size,
    )
    arguments = vit_arguments(config, images, size)
    return replace(tiny, model_args=arguments, epochs=200, warmup_epochs=20, eval_epochs=50)


RESOURCES = Resources(gpus=1, cpus=4, memory_gb=4, minutes=2, cpu_minutes=5, runs_per_job=12)
PRETRAINING = {
    row: replace(RESOURCES, minutes=4, cpu_minutes=minutes)
    for row, minutes in {"mae_vit_b": 10, "mae_vit_l": 17, "dino_b16": 19, "dino_b8": 19}.items()
}
"""Row → resources of its pretraining."""

SCALE = Scale(
    name="mini",
    seeds=(0, 1, 2),
    runs={
        "mae_vit_b": mae(
            mini_mae(MAE_B, MAE_SIZES["mae_vit_b"]),
            mini_tuning(FINE_TUNE_B, DIGITS, MAE_SIZES["mae_vit_b"]),
        ),
        "mae_vit_l": mae(
            mini_mae(MAE_L, MAE_SIZES["mae_vit_l"]),
            mini_tuning(FINE_TUNE_L, DIGITS, MAE_SIZES["mae_vit_l"]),
        ),
        "dino_b16": dino(
            mini_dino(DINO_B16, DIGITS, B16, local_size=12), mini_tuning(FINE_TUNE_B, DIGITS, B16)
        ),
        "dino_b8": dino(
            mini_dino(DINO_B8, DIGITS_B8, B8, local_size=8),
            mini_tuning(FINE_TUNE_B8, DIGITS_B8, B8),
        ),
    },
    arm_norms=norms_by_width(
        {
            **{row: size.width for row, size in MAE_SIZES.items()},
            "dino_b16": B16.width,
            "dino_b8": B8.width,
        },
        {DYT.name: DYT.norm},
    ),
    resources=RESOURCES,
    resource_overrides={f"{row}/pretrained": one for row, one in PRETRAINING.items()},
    note=(
        "ViTs of width 128 (192 for ViT-L), images of 16 × 16 pixels, patch size 4; DINO with "
        "patch size 8: images of 12 × 12 pixels, patch size 2. Pretrained on all digits without "
        "labels, for 150 (MAE) or 20 (DINO) epochs, fine-tuned on ten labeled digits per class."
    ),
)
