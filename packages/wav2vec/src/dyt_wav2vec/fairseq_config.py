"""A run's settings as fairseq's trainer takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dyt_wav2vec import model, registration, upstream
from dyt_wav2vec.config import Pretraining
from matched.task import Context


def settings(config: Pretraining) -> dict[str, Any]:
    """What decides the numbers, in the words of fairseq's configuration files."""
    half = config.precision == "fp16"
    return {
        "common": {"seed": config.seed, "fp16": half},
        "task": {
            "_name": registration.TASK,
            "max_sample_size": config.max_sample_size,
            "min_sample_size": config.min_sample_size,
            "normalize": False,
        },
        "dataset": {"max_tokens": config.max_tokens, "skip_invalid_size_inputs_valid_test": True},
        "distributed_training": {
            "distributed_world_size": config.shards,
            "ddp_backend": "legacy_ddp",
        },
        "criterion": {
            "_name": "wav2vec",
            "infonce": True,
            "log_keys": ["prob_perplexity", "code_perplexity", "temp"],
            "loss_weights": list(config.loss_weights),
        },
        "optimization": {
            "max_update": config.updates,
            "max_epoch": config.epochs or 0,
            "lr": [config.lr],
        },
        "optimizer": {
            "_name": "adam",
            "adam_betas": str(config.betas),
            "adam_eps": config.eps,
            "weight_decay": config.weight_decay,
        },
        "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": config.warmup_updates},
        "model": {
            "_name": registration.MODEL,
            "norm": registration.as_text(config.norm),
            **model.settings(config.network),
        },
    }


def here(config: Pretraining, context: Context, lists: Path, device: torch.device) -> dict:
    """What says where a run computes, and decides nothing.

    Args:
        lists: folder of train.tsv and valid.tsv.

    Raises:
        ValueError: if the micro-batches of an update do not divide over the processes.
    """
    if config.shards % context.world_size:
        raise ValueError(
            f"the {config.shards} micro-batches of an update cannot be divided over "
            f"{context.world_size} processes; expected a number of processes that divides "
            f"{config.shards}"
        )
    on_cpu = device.type == "cpu"
    return {
        # The optimiser's flat copy of the weights lies on a GPU or nowhere.
        "common": {"cpu": on_cpu, "fp16_no_flatten_grads": on_cpu},
        "task": {"data": str(lists)},
        "dataset": {
            "num_workers": context.num_workers,
            # No thread of fairseq's, which reads ahead of the loading processes, as these do too:
            # where a run ends in the middle of an epoch it would wait, and they, for the job's end.
            "data_buffer_size": 0,
        },
        "distributed_training": {
            "distributed_world_size": context.world_size,
            "distributed_rank": context.rank,
            "distributed_no_spawn": True,
            "device_id": device.index or 0,
        },
        "optimization": {"update_freq": [config.shards // context.world_size]},
    }


def whole(*parts: dict[str, Any]) -> DictConfig:
    """fairseq's configuration with all its defaults, changed by each of the parts in turn."""
    defaults = OmegaConf.structured(upstream.FairseqConfig)
    merged = OmegaConf.merge(defaults, *map(OmegaConf.create, parts))
    upstream.add_defaults(merged)
    plain = OmegaConf.to_container(merged, resolve=True, enum_to_str=True)
    cfg = OmegaConf.create(plain)
    OmegaConf.set_struct(cfg, True)
    return cfg
