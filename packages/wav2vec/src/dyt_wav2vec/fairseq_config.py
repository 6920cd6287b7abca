"""fairseq configuration of a pretraining run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dyt_wav2vec import fairseq_api, fairseq_plugin, model
from dyt_wav2vec.config import Pretraining
from matched.task import Context


def training_overrides(config: Pretraining) -> dict[str, Any]:
    """Return the settings that decide the numbers, in the form of fairseq's YAML files."""
    return {
        "common": {"seed": config.seed, "fp16": config.precision == "fp16"},
        "task": {
            "_name": fairseq_plugin.TASK,
            "max_sample_size": config.max_sample_size,
            "min_sample_size": config.min_sample_size,
            "normalize": False,
        },
        "dataset": {"max_tokens": config.max_tokens, "skip_invalid_size_inputs_valid_test": True},
        "distributed_training": {
            "distributed_world_size": config.micro_batches_per_update,
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
            "_name": fairseq_plugin.MODEL,
            "norm": fairseq_plugin.norm_to_json(config.norm),
            **model.model_overrides(config.network),
        },
    }


def runtime_overrides(
    config: Pretraining, context: Context, manifest_folder: Path, device: torch.device
) -> dict[str, Any]:
    """Return the settings of where and how a run computes, which do not change its numbers.

    Args:
        config: config of the run.
        context: context of the run.
        manifest_folder: folder of train.tsv and valid.tsv.
        device: this process's device.

    Raises:
        ValueError: if the micro-batches of an update do not divide over the processes.
    """
    micro_batches = config.micro_batches_per_update
    if micro_batches % context.world_size:
        raise ValueError(
            f"micro_batches_per_update is {micro_batches}, which cannot be divided over "
            f"{context.world_size} processes; expected a number of processes that divides it"
        )
    on_cpu = device.type == "cpu"
    return {
        # fairseq allocates the optimizer's flat copy of the weights on a GPU only.
        "common": {"cpu": on_cpu, "fp16_no_flatten_grads": on_cpu},
        "task": {"data": str(manifest_folder)},
        "dataset": {
            "num_workers": context.num_workers,
            # No prefetch thread on top of the worker processes, which prefetch as well: when a run
            # ends in the middle of an epoch, the thread and the workers would block until the job
            # ends.
            "data_buffer_size": 0,
        },
        "distributed_training": {
            "distributed_world_size": context.world_size,
            "distributed_rank": context.rank,
            "distributed_no_spawn": True,
            "device_id": device.index or 0,
        },
        "optimization": {"update_freq": [micro_batches // context.world_size]},
    }


def merged_config(*overrides: dict[str, Any]) -> DictConfig:
    """Return fairseq's configuration with all its defaults and the overrides applied in order."""
    defaults = OmegaConf.structured(fairseq_api.FairseqConfig)
    merged = OmegaConf.merge(defaults, *map(OmegaConf.create, overrides))
    fairseq_api.add_defaults(merged)
    plain = OmegaConf.to_container(merged, resolve=True, enum_to_str=True)
    cfg = OmegaConf.create(plain)
    assert isinstance(cfg, DictConfig), "made from a dict"
    OmegaConf.set_struct(cfg, True)
    return cfg
