"""Smoke scale of Table 3: pixel diffusion of digits, scored with a small classifier's features."""

from dataclasses import replace

from dyt_dit.config import (
    DigitsClassifier,
    Encoding,
    Network,
    Reference,
    Sampling,
    Scoring,
    Training,
)
from matched import Metric, Resources, Run, Scale
from recipes.cvpr2025.table03 import ENCODE, MEASURE, SAMPLING, TRAINING, chain
from recipes.smoke_norms import SMOKE_NORMS

LEARN_DIGITS = "dyt_dit.digits_features:train"

TINY = replace(
    TRAINING,
    data=(),
    epochs=90,
    batch=64,
    micro_batch=64,
    lr=3e-3,
    ema_decay=0.995,
    precision="fp32",
    flip=0.0,
    held_out=360,
    eval_batch=360,
    eval_epochs=30,
    log_steps=88,
)
TINY_LATENTS = Run(
    task=ENCODE,
    config=Encoding(data=("digits",), autoencoder="pixels", image_size=8, flip=False, batch=512),
)
TINY_SAMPLING = replace(
    SAMPLING, data=(), autoencoder="pixels", count=500, batch=125, precision="fp32"
)
DIGITS = {"extractor": "digits", "batch": 512}
CLASSIFIER = Run(task=LEARN_DIGITS, config=DigitsClassifier())
TINY_REFERENCE = Run(
    task=MEASURE,
    config=Reference(data=("digits",), image_size=8, kept=1437, **DIGITS),
    needs={"classifier": CLASSIFIER},
)


def tiny_chain(
    *,
    patch_size: int = 4,
    width: int,
    depth: int,
    training: Training = TINY,
    sampling: Sampling = TINY_SAMPLING,
) -> dict[str, Run]:
    """The chain of a network that diffuses pixels of digits, scored with features of digits."""
    network = Network(
        input_size=8,
        channels=1,
        classes=10,
        patch_size=patch_size,
        width=width,
        depth=depth,
        heads=4,
    )
    return chain(
        network,
        training,
        sampling,
        Scoring(**DIGITS),
        TINY_LATENTS,
        reference=TINY_REFERENCE,
        classifier=CLASSIFIER,
    )


def score_note(samples: int) -> str:
    """The note on the metric, with the number of samples."""
    return (
        f"The metric is the Fréchet distance between {samples:,} samples and the training digits "
        "in the features of a small classifier. It is not comparable with an FID."
    )


SCORE_NOTE = score_note(TINY_SAMPLING.count)

SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs={
        "dit_b4": tiny_chain(width=64, depth=2),
        "dit_l4": tiny_chain(width=96, depth=3),
        "dit_xl2": tiny_chain(patch_size=2, width=64, depth=3),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=12),
    note=(
        "Diffusion over the 8 × 8 pixels of the digits, patch size 4 (DiT-XL: 2), with 2 blocks of "
        "width 64 (DiT-B), 3 of width 96 (DiT-L) and 3 of width 64 (DiT-XL). "
        f"{SCORE_NOTE}"
    ),
    metrics=(
        Metric(
            key="frechet_digits",
            label="Fréchet distance (digits features)",
            direction="lower",
        ),
        Metric(key="precision", label="precision (digits features)", direction="higher"),
        Metric(key="recall", label="recall (digits features)", direction="higher"),
    ),
)
