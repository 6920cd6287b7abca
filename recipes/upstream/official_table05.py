"""CVPR 2025, Table 5, by the official script: pretraining of wav2vec 2.0 Base and Large.

    Hardware   64 GPUs for Base, 128 for Large, on which the batch size depends
    Needs      site.toml: [upstream] fairseq, with its extensions built (`pip install --editable`),
               [data] librispeech; packages/wav2vec, which lets fairseq run on Python 3.11 and later
    Command    make table FILE=recipes/upstream/official_table05.py SCALE=paper CLUSTER=slurm
    Smoke      make table FILE=recipes/upstream/official_table05.py       the miniature upstream

The command of the authors' release, fairseq-hydra-train with wav2vec2_base_librispeech. fairseq has
no such file for Large on LibriSpeech: the options are those in which the release's file differs
from Base's. The convolutional feature extractor keeps its norms. Lists of the utterances are
written by the preparation that ../cvpr2025/table05.py has too. Validation draws new masks and crops
each time, with noise as large as the paper's differences; that recipe averages over fixed ones.
"""

from dataclasses import replace

from dyt_upstream.config import Script
from dyt_upstream.upstreams import UPSTREAMS
from matched import Metric, Run, Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.cvpr2025.table05 import GPUS, LIBRISPEECH, LISTING
from recipes.upstream import common

BASE_GPUS, LARGE_GPUS = 64, 128


def pretraining(*options: str, gpus: int, updates: int) -> Run:
    """Pretraining with these options in addition to Base's."""
    config = Script(
        upstream="fairseq",
        commit=UPSTREAMS["fairseq"].commit,
        command=(
            *("-m", "fairseq_cli.hydra_train"),
            *("--config-dir", "{checkout}/examples/wav2vec/config/pretraining"),
            *("--config-name", "wav2vec2_base_librispeech", "task.data={needs.speech}/lists"),
            *("hydra.run.dir={output}", "checkpoint.save_dir={output}/checkpoints"),
            *("common.seed={seed}", f"distributed_training.distributed_world_size={gpus}"),
            f"optimization.max_update={updates}",
            *options,
        ),
        metrics=("val_loss",),
        processes=gpus,
        total=updates,
        data=("upstream.fairseq",),
        skip=("*feature_extractor",),
    )
    return Run(task=common.TASK, config=config, needs={"speech": LIBRISPEECH})


PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "wav2vec2_base": pretraining(gpus=BASE_GPUS, updates=400_000),
        "wav2vec2_large": pretraining(
            *("task.max_sample_size=320000", "dataset.max_tokens=1200000"),
            *("optimization.lr=[0.0003]", "lr_scheduler.warmup_updates=20000"),
            *("+model.encoder_layers=24", "model.encoder_embed_dim=1024"),
            *("+model.encoder_ffn_embed_dim=4096", "+model.encoder_attention_heads=16"),
            *("+model.layer_norm_first=true", "model.final_dim=768"),
            *("+model.latent_temp=[2.0,0.1,0.999995]", "model.encoder_layerdrop=0.2"),
            "+model.attention_dropout=0.0",
            gpus=LARGE_GPUS,
            updates=250_000,
        ),
    },
    resources=replace(GPUS, gpus=BASE_GPUS),
    resource_overrides={
        "wav2vec2_large": replace(GPUS, gpus=LARGE_GPUS, minutes=56 * 60),
        "wav2vec2_base/speech": LISTING,
        "wav2vec2_large/speech": LISTING,
    },
    metrics=(Metric(key="val_loss", label="validation loss", direction="lower"),),
)

TABLE = Table(
    arms=LN_VS_DYT,
    scales=(common.SMOKE, PAPER),
    title="Table 5 by the official script of fairseq",
    labels={
        **common.LABELS,
        "wav2vec2_base": "wav2vec 2.0 Base",
        "wav2vec2_large": "wav2vec 2.0 Large",
    },
)
