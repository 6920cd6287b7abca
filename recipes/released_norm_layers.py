"""Norm layers of released networks, those that CVPR 2025, Figure 2 shows: LN only.

    Hardware   1 GPU for a minute per network, or a CPU; no training
    Command    make table FILE=recipes/released_norm_layers.py SCALE=paper
    Data       ImageNet and LibriSpeech, and the weights, all named in site.toml: timm's ViT-B
               (vit-b-weights), wav2vec 2.0 Large of fairseq (wav2vec2-large-weights) and
               DiT-XL/2 at 256 × 256 of its release (dit-xl2-weights)

The analysis is that of norm_layers.py, with released weights instead of a training. Weights are
loaded strictly. Unlike the networks of our tables, timm's ViT-B classifies by its class token, and
wav2vec 2.0 Large of fairseq (960 hours) is post-norm, as torchaudio's description of it has it.
Images are normalized as in our tables, which timm's weights need not have been trained with.
"""

from dataclasses import replace

from dyt import Norm
from dyt_dit.config import ReleasedWeights as DiffusionWeights
from dyt_vision.config import ReleasedWeights as VisionWeights
from dyt_wav2vec.config import LARGE
from dyt_wav2vec.config import ReleasedWeights as SpeechWeights
from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table01, table03, table05
from recipes.norm_layers import ANALYSIS, DIFFUSION, METRICS, NOTE, SPEECH, VISION

VIT_B = replace(table01.VIT_B, model_args=())
WAV2VEC2 = replace(table05.LARGE_RUN, network=replace(LARGE, layer_norm_first=False))
DIT = table03.PAPER.runs["dit_xl2"]["LN"].needs["samples"].needs["trained"]


def analyzed(task: str, config: object, weights: Run, **needs: Run) -> Run:
    """Analysis of released weights; the config is that of a training of the same network."""
    return Run(task=task, config=config, needs={**needs, "trained": weights})


ROWS = {
    "vit_b": analyzed(
        VISION,
        VIT_B,
        Run(
            task="dyt_vision.released_weights:import_weights",
            config=VisionWeights(model=VIT_B.model),
        ),
    ),
    "wav2vec2_large": analyzed(
        SPEECH,
        WAV2VEC2,
        Run(
            task="dyt_wav2vec.released_weights:import_weights",
            config=SpeechWeights(network=WAV2VEC2.network),
        ),
        speech=table05.LIBRISPEECH,
    ),
    "dit_xl2": analyzed(
        DIFFUSION,
        DIT.config,
        Run(
            task="dyt_dit.weights_import:import_weights",
            config=DiffusionWeights(network=DIT.config.network),
        ),
        latents=DIT.needs["latents"],
    ),
}
IMPORT = replace(ANALYSIS, gpus=0, cpus=1, minutes=10)
PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=ROWS,
    resources=ANALYSIS,
    resource_overrides={
        **{f"{row}/trained": IMPORT for row in ROWS},
        "wav2vec2_large/speech": table05.LISTING,
        "dit_xl2/latents": table03.PAPER.resource_overrides["dit_xl2/samples/trained/latents"],
    },
    metrics=METRICS,
    note=NOTE,
)

TABLE = Table(
    title="Norm layers of released networks",
    labels={"vit_b": "ViT-B", "wav2vec2_large": "wav2vec 2.0 Large", "dit_xl2": "DiT-XL/2"},
    arms=(Arm(name="LN", norm=Norm.own()),),
    scales=(PAPER,),
)
