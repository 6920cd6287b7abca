"""Mini scale of Table 5: wav2vec 2.0 models of width 128 on synthetic speech, or on a folder.

    Command    make table5 SCALE=mini, with SET=data=speech-folder on a folder of speech
    Time       2 hours on one core: 6 runs each of 9 and 12 minutes (estimated)

Twice smoke scale's width and more blocks, for 3,000 updates on half an hour of speech by 16 voices.
The learning rate and all other settings are smoke scale's, and none was tuned; α0 follows the rule
for widths. It has not been run yet.
"""

from collections.abc import Callable
from dataclasses import replace

from dyt_wav2vec.config import Preparation
from matched import Resources, Run, Scale
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.smoke.table05 import TINY, TINY_RUN
from recipes.cvpr2025.table05 import METRICS, PREPARE, pretrained
from recipes.mini_images import norms_by_width

WIDTH = 128
NETWORK = replace(TINY, encoder_embed_dim=WIDTH, encoder_ffn_embed_dim=4 * WIDTH)
UPDATES = 3000
FOLDER = "speech-folder"
SPEECH = {
    "synthetic-speech": Preparation(data="synthetic-speech", train=600, valid=80, voices=16),
    FOLDER: Preparation(data=FOLDER),
}
"""Data source → its preparation."""
RESOURCES = Resources(gpus=1, cpus=4, memory_gb=4, minutes=5, cpu_minutes=9, runs_per_job=8)
DEEP = replace(RESOURCES, minutes=6, cpu_minutes=12)
LISTING = Resources(cpus=1, memory_gb=4, minutes=1)


def pretraining(data: str, *, depth: int, pre_norm: bool) -> Run:
    """Pretraining on the speech of a source."""
    config = replace(
        TINY_RUN,
        network=replace(NETWORK, encoder_layers=depth, layer_norm_first=pre_norm),
        data=data,
        updates=UPDATES,
        warmup_updates=UPDATES // 10,
        eval_updates=UPDATES // 6,
        log_updates=50,
    )
    return pretrained(config, Run(task=PREPARE, config=SPEECH[data]))


def on_every_source(rows: Callable[[str], dict[str, Run]], deep: str, note: str) -> Scale:
    """A table's mini scale on synthetic speech, or on the user's folder.

    Args:
        rows: data source → the rows.
        deep: the row with six blocks, or "".
        note: describes the networks.
    """

    def scale(data: str) -> Scale:
        runs = rows(data)
        speech = "synthetic speech" if data != FOLDER else "the folder's speech"
        return Scale(
            name="mini",
            arm_norms=norms_by_width(dict.fromkeys(runs, WIDTH), {DYT.name: DYT.norm}),
            seeds=(0, 1, 2),
            runs=runs,
            resources=RESOURCES,
            resource_overrides={
                **{f"{row}/speech": LISTING for row in runs},
                **({deep: DEEP} if deep else {}),
            },
            note=(
                f"{note} The task is to tell a masked step of {speech} from 50 others of its "
                f"utterance; {UPDATES:,} updates of 8 crops of 2 s. Chance level is 5.67 in the "
                "contrastive part of the loss; at most 32 codes can be in use."
            ),
            metrics=METRICS,
        )

    return replace(scale("synthetic-speech"), on_data={FOLDER: scale(FOLDER)})


def rows(data: str) -> dict[str, Run]:
    return {
        "wav2vec2_base": pretraining(data, depth=4, pre_norm=False),
        "wav2vec2_large": pretraining(data, depth=6, pre_norm=True),
    }


SCALE = on_every_source(
    rows,
    deep="wav2vec2_large",
    note=f"Base: 4 post-norm blocks of width {WIDTH}. Large: 6 pre-norm blocks.",
)
