"""CVPR 2025, Table 2, by the official scripts: MAE pretraining and fine-tuning, DINO pretraining.

    Hardware   as ../cvpr2025/table02.py: 64 GPUs for MAE's pretraining, 32 for its fine-tuning and
               for DINO with patch size 16, 176 with patch size 8
    Needs      site.toml: [upstream] mae and dino, [data] imagenet; the libraries of their READMEs
    Command    make table FILE=recipes/upstream/official_table02.py SCALE=paper CLUSTER=slurm
    Smoke      make table FILE=recipes/upstream/official_table02.py       the miniature upstream

The commands are those of PRETRAIN.md and FINETUNE.md of facebookresearch/mae, and DINO's with the
arguments of its published ViT-B/16 and ViT-B/8. DINO has no script for fine-tuning a whole network:
its rows show the loss of the pretraining, and the chain with fine-tuning is ../cvpr2025/table02.py.
The scripts decide on seeds, resume and checkpoints, so an interrupted run is not bit-identical.
"""

from dataclasses import replace

from dyt_upstream.config import Script
from dyt_upstream.upstreams import UPSTREAMS
from matched import Metric, Resources, Run, Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.upstream import common

FILES = ("--data_path", "{data.imagenet}", "--output_dir", "{output}", "--log_dir", "{output}")


def mae(*command: str, metric: str, processes: int, total: int) -> Script:
    """A script of MAE on ImageNet."""
    return Script(
        upstream="mae",
        commit=UPSTREAMS["mae"].commit,
        command=(*command, *common.SEED, *FILES),
        metrics=(metric,),
        processes=processes,
        total=total,
        data=("upstream.mae", "imagenet"),
    )


PRETRAIN_B = mae(
    *("main_pretrain.py", "--model", "mae_vit_base_patch16", "--batch_size", "64"),
    *("--norm_pix_loss", "--mask_ratio", "0.75", "--epochs", "800", "--warmup_epochs", "40"),
    *("--blr", "1.5e-4", "--weight_decay", "0.05"),
    metric="loss",
    processes=64,
    total=800,
)
TUNE_B = mae(
    *("main_finetune.py", "--model", "vit_base_patch16", "--finetune", "{needs.pretrained}"),
    *("--batch_size", "32", "--epochs", "100", "--blr", "5e-4", "--layer_decay", "0.65"),
    *("--weight_decay", "0.05", "--drop_path", "0.1", "--reprob", "0.25", "--mixup", "0.8"),
    *("--cutmix", "1.0", "--dist_eval"),
    metric="top1",
    processes=32,
    total=100,
)


def changed(config: Script, **options: str) -> Script:
    """Return a config with other values of some options of its command."""
    command = list(config.command)
    for name, value in options.items():
        command[command.index(f"--{name}") + 1] = value
    return replace(config, command=tuple(command))


PRETRAIN_L = changed(PRETRAIN_B, model="mae_vit_large_patch16")
TUNE_L = changed(
    replace(TUNE_B, total=50),
    model="vit_large_patch16",
    epochs="50",
    blr="1e-3",
    layer_decay="0.75",
    drop_path="0.2",
)

DINO_B16 = Script(
    upstream="dino",
    commit=UPSTREAMS["dino"].commit,
    command=(
        *("main_dino.py", "--arch", "vit_base", "--patch_size", "16", "--epochs", "400"),
        *("--batch_size_per_gpu", "32", "--lr", "0.00075", "--min_lr", "2e-06"),
        *("--warmup_epochs", "10", "--weight_decay", "0.04", "--weight_decay_end", "0.4"),
        *("--warmup_teacher_temp", "0.04", "--teacher_temp", "0.07"),
        *("--warmup_teacher_temp_epochs", "50", "--clip_grad", "0.3", "--use_fp16", "false"),
        *("--freeze_last_layer", "3", "--norm_last_layer", "true", "--drop_path_rate", "0.1"),
        *("--momentum_teacher", "0.996", "--local_crops_number", "10"),
        *("--global_crops_scale", "0.25", "1.0", "--local_crops_scale", "0.05", "0.25"),
        *(*common.SEED, "--data_path", "{data.imagenet}/train", "--output_dir", "{output}"),
    ),
    metrics=("loss",),
    processes=32,
    total=400,
    data=("upstream.dino", "imagenet"),
)
DINO_B8 = changed(
    replace(DINO_B16, processes=176, total=300),
    patch_size="8",
    epochs="300",
    batch_size_per_gpu="6",
    lr="0.0005",
    warmup_teacher_temp="0.03",
    clip_grad="3.0",
)


def chain(pretraining: Script, tuning: Script) -> Run:
    """Fine-tuning of what a pretraining of the same arm saves."""
    need = Run(task=common.TASK, config=pretraining)
    return Run(task=common.TASK, config=tuning, needs={"pretrained": need})


GPUS = Resources(gpus=32, cpus=10, memory_gb=48, minutes=12 * 60)
PRETRAINING = replace(GPUS, gpus=64, minutes=48 * 60)
PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "mae_vit_b": chain(PRETRAIN_B, TUNE_B),
        "mae_vit_l": chain(PRETRAIN_L, TUNE_L),
        "dino_b16": Run(task=common.TASK, config=DINO_B16),
        "dino_b8": Run(task=common.TASK, config=DINO_B8),
    },
    resources=GPUS,
    resource_overrides={
        "mae_vit_b/pretrained": PRETRAINING,
        "mae_vit_l/pretrained": PRETRAINING,
        "dino_b16": replace(GPUS, minutes=96 * 60),
        "dino_b8": replace(GPUS, gpus=176, minutes=96 * 60),
    },
    metrics=(
        Metric(key="top1", label="top-1", unit="%", direction="higher"),
        Metric(key="loss", label="pretraining loss", direction="none"),
    ),
)

TABLE = Table(
    arms=LN_VS_DYT,
    scales=(common.SMOKE, PAPER),
    title="Table 2 by the official scripts of MAE and DINO",
    labels={
        **common.LABELS,
        "mae_vit_b": "MAE ViT-B",
        "mae_vit_l": "MAE ViT-L",
        "dino_b16": "DINO ViT-B (patch size 16), pretraining",
        "dino_b8": "DINO ViT-B (patch size 8), pretraining",
    },
)
