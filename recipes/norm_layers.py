"""Norm layers of trained networks: inputs and outputs, their shape, and α against 1/std.

    Hardware   1 GPU for a minute per network, after the trainings of Tables 1, 3 and 5
    Command    make fig2, fig4, fig8, iclr-fig1, iclr-fig2, iclr-fig3 SCALE=paper CLUSTER=slurm
    Smoke      make fig2

The analysis of CVPR 2025, Figures 2, 4 and 8, as runs: each needs the training whose network it
analyzes, shares it with that table, and records every norm layer on one batch of held-out data.
CVPR's Figure 2 shows ViT-B, wav2vec 2.0 Large and DiT-XL, which the authors took as published; here
they are those of our own tables.
"""

from dataclasses import replace

from matched import Metric, Resources, Run, Scale, Table
from recipes.cvpr2025 import table01, table03, table05
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.cvpr2025.smoke import table01 as smoke01
from recipes.cvpr2025.smoke import table03 as smoke03
from recipes.cvpr2025.smoke import table05 as smoke05
from recipes.cvpr2025.table03 import NO_ZERO_INIT
from recipes.smoke_norms import SMOKE_NORMS

VISION = "dyt_vision.norm_layers:analyze"
SPEECH = "dyt_wav2vec.norm_layers:analyze"
DIFFUSION = "dyt_dit.norm_layers:analyze"


def analyzed(task: str, training: Run) -> Run:
    """Analysis of the network that a run trains, with the training's own config and needs."""
    return Run(task=task, config=training.config, needs={**training.needs, "trained": training})


def analyzed_diffusion(chain: dict[str, Run]) -> dict[str, Run]:
    """Analysis of the networks at the start of a row's chains, which differ in zero_init."""
    return {
        arm: analyzed(DIFFUSION, run.needs["samples"].needs["trained"])
        for arm, run in chain.items()
    }


def rows(vision: Scale, speech: Scale, diffusion: Scale) -> dict[str, Run | dict[str, Run]]:
    """The rows from the trainings of Tables 1, 5 and 3 at one scale."""
    return {
        "vit_b": analyzed(VISION, vision.runs["vit_b"]),
        "convnext_b": analyzed(VISION, vision.runs["convnext_b"]),
        "wav2vec2_large": analyzed(SPEECH, speech.runs["wav2vec2_large"]),
        "dit_xl2": analyzed_diffusion(diffusion.runs["dit_xl2"]),
    }


METRICS = (
    Metric(key="gain_early", label="S-shape, early layers", direction="none"),
    Metric(key="gain_deep", label="S-shape, deep layers", direction="none"),
    Metric(key="gain_difference", label="S-shape, deep minus early", direction="none"),
    Metric(key="linear_share", label="points in the linear part", unit="%", direction="none"),
    Metric(key="alpha_correlation", label="rank correlation of α and 1/std", direction="none"),
)
NOTE = (
    "S-shape is the part of the squared error of a best line that a best s·tanh(αx) + c removes, "
    "averaged over the first or the last third of the layers: 0 for a straight line, 1 for DyT by "
    "definition. The linear part is |αx| ≤ 0.5."
)

SMOKE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0, 1),
    runs=rows(smoke01.SCALE, smoke05.SCALE, smoke03.SCALE),
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=8),
    metrics=METRICS,
    note=f"The toy networks of the smoke tables. {NOTE}",
)

ANALYSIS = Resources(gpus=1, cpus=8, memory_gb=32, minutes=20)
PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=rows(table01.PAPER, table05.PAPER, table03.PAPER),
    resources=ANALYSIS,
    resource_overrides={
        "vit_b/trained": table01.PAPER.resources,
        "convnext_b/trained": table01.PAPER.resources,
        "wav2vec2_large/speech": table05.LISTING,
        "wav2vec2_large/trained": table05.PAPER.resource_overrides["wav2vec2_large"],
        "wav2vec2_large/trained/speech": table05.LISTING,
        "dit_xl2/latents": table03.PAPER.resource_overrides["dit_xl2/samples/trained/latents"],
        "dit_xl2/trained": table03.PAPER.resource_overrides["dit_xl2/samples/trained"],
        "dit_xl2/trained/latents": table03.PAPER.resource_overrides[
            "dit_xl2/samples/trained/latents"
        ],
    },
    metrics=METRICS,
    note=NOTE,
)

LN, DYT = LN_VS_DYT
TABLE = Table(
    title="Norm layers of trained networks",
    labels={
        "vit_b": "ViT-B",
        "convnext_b": "ConvNeXt-B",
        "wav2vec2_large": "wav2vec 2.0 Large",
        "dit_xl2": "DiT-XL",
    },
    arms=(LN, replace(DYT, allowed_differences={"zero_init": NO_ZERO_INIT})),
    scales=(SMOKE, PAPER),
)
