"""Mini scale of Table 3: diffusion transformers of widths 64 and 128 on the pixels of digits.

    Command    make table3 SCALE=mini
    Time       3 hours on one core: 6 chains each of 4, 9 and 20 minutes, of which training takes
               3, 8 and 16 (estimated)

Larger networks than smoke scale's, for almost three times its epochs, with twice its samples. The
learning rate and all other settings are smoke scale's, and none was tuned; α0 follows the rule for
widths. It has not been run yet.
"""

from dataclasses import replace

from matched import Resources, Scale
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.smoke import table03
from recipes.cvpr2025.smoke.table03 import TINY, TINY_SAMPLING, score_note, tiny_chain
from recipes.mini_images import norms_by_width

TRAINING = replace(TINY, epochs=240, eval_epochs=80)
SAMPLING = replace(TINY_SAMPLING, count=1000, batch=250)
WIDTHS = {"dit_b4": 64, "dit_l4": 128, "dit_xl2": 128}
RUNS = {
    row: tiny_chain(
        patch_size=2 if row == "dit_xl2" else 4,
        width=width,
        depth=4 if row == "dit_b4" else 6,
        training=TRAINING,
        sampling=SAMPLING,
    )
    for row, width in WIDTHS.items()
}
CPU_MINUTES = {"dit_b4": (3, 1), "dit_l4": (8, 1), "dit_xl2": (16, 4)}
"""Row → minutes of the training and of the sampling on a core."""

RESOURCES = Resources(gpus=1, cpus=2, memory_gb=4, minutes=2, cpu_minutes=1, runs_per_job=12)
SHARED = Resources(cpus=1, memory_gb=4, minutes=1)
"""Resources of the latents, the classifier and the reference, which all cells share."""


def resources_of(row: str, minutes: tuple[int, int]) -> dict[str, Resources]:
    """The resources of a row's runs by their path."""
    training, sampling = minutes
    return {
        f"{row}/samples": replace(RESOURCES, cpu_minutes=sampling),
        f"{row}/samples/trained": replace(RESOURCES, minutes=4, cpu_minutes=training),
        **dict.fromkeys(
            (
                f"{row}/samples/trained/latents",
                f"{row}/classifier",
                f"{row}/reference",
                f"{row}/reference/classifier",
            ),
            SHARED,
        ),
    }


def overrides(minutes: dict[str, tuple[int, int]]) -> dict[str, Resources]:
    """The resources of several rows."""
    return {
        path: one
        for row, times in minutes.items()
        for path, one in resources_of(row, times).items()
    }


PIXELS = f"Diffusion over the 8 × 8 pixels of the digits for {TRAINING.epochs} epochs"
SCORED = score_note(SAMPLING.count)

SCALE = Scale(
    name="mini",
    arm_norms=norms_by_width(WIDTHS, {DYT.name: DYT.norm}),
    seeds=(0, 1, 2),
    runs=RUNS,
    resources=RESOURCES,
    resource_overrides=overrides(CPU_MINUTES),
    note=(
        f"{PIXELS}, patch size 4 (DiT-XL: 2), with 4 blocks of width 64 (DiT-B) and 6 of width 128 "
        f"(DiT-L and DiT-XL). {SCORED}"
    ),
    metrics=table03.SCALE.metrics,
)
