"""Configs of the speech runs: validation, error messages and the mapping to fairseq."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dyt import Norm
from dyt_wav2vec import config as configs
from dyt_wav2vec.config import BASE, LARGE, Preparation
from matched.task import Context

from ..config_checks import defaults_of
from .problem import CONFIG

COUNTS = {
    "updates": CONFIG, "micro_batches_per_update": CONFIG, "max_tokens": CONFIG,
    "max_sample_size": CONFIG, "min_sample_size": CONFIG, "eval_updates": CONFIG,
    "log_updates": CONFIG, "epochs": CONFIG,
    "train": Preparation(), "valid": Preparation(), "voices": Preparation(),
    "encoder_layers": BASE, "encoder_embed_dim": BASE, "encoder_ffn_embed_dim": BASE,
    "encoder_attention_heads": BASE, "final_dim": BASE, "latent_vars": BASE,
    "latent_groups": BASE, "conv_pos": BASE, "conv_pos_groups": BASE, "mask_length": BASE,
    "num_negatives": BASE,
}  # fmt: skip
SHARES = (
    "mask_prob", "dropout", "attention_dropout", "activation_dropout", "dropout_input",
    "dropout_features", "encoder_layerdrop", "feature_grad_mult",
)  # fmt: skip


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
@pytest.mark.parametrize("name", COUNTS)
def test_config_requires_positive_integer_counts(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value!r}; expected a whole number of 1 or"):
        replace(COUNTS[name], **{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", SHARES)
def test_config_requires_fractions_from_0_to_1(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value}; expected 0 to 1$"):
        replace(BASE, **{name: value})


ERRORS = {
    "source": (
        Preparation(),
        {"data": "tidigits"},
        "data is 'tidigits'; expected 'librispeech', 'speech-folder' or 'synthetic-speech'",
    ),
    "calibrated norm": (
        CONFIG,
        {"norm": Norm.dyt("calibrated")},
        "^norm is .*, but fairseq builds the network without data to calibrate α on; give alpha0 a "
        "number$",
    ),
    "source of pretraining": (CONFIG, {"data": ""}, "data is ''; expected 'librispeech', "),
    "precision": (CONFIG, {"precision": "bf16"}, "precision is 'bf16'; expected 'fp32' or 'fp16'"),
    "one pass": (
        CONFIG,
        {"eval_passes": 1},
        "^eval_passes is 1; expected a whole number of 2 or more: a single pass has no standard "
        "error$",
    ),
    "half a pass": (CONFIG, {"eval_passes": 2.5}, "eval_passes is 2.5; expected a whole number of"),
    "no rate": (
        CONFIG,
        {"lr": 0.0},
        r"lr is 0.0 and warmup_updates is 3; expected a positive lr and warmup_updates from 0 to "
        r"below updates \(7\)",
    ),
    "rate is not a number": (CONFIG, {"lr": float("nan")}, "lr is nan and warmup_updates is 3; "),
    "infinite rate": (CONFIG, {"lr": float("inf")}, "lr is inf and warmup_updates is 3; "),
    "beta of 1": (CONFIG, {"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\) and eps is 1e-06; expec"),
    "no epsilon": (
        CONFIG,
        {"eps": 0.0},
        r"^betas are \(0.9, 0.98\) and eps is 0.0; expected betas from 0 to below 1 and a positive "
        "eps$",
    ),
    "decay": (
        CONFIG,
        {"weight_decay": -0.1},
        "^weight_decay is -0.1 and loss_weights are .*; expected numbers of 0 or more$",
    ),
    "loss weight": (CONFIG, {"loss_weights": (0.1, -1)}, r"loss_weights are \(0.1, -1\); expected"),
    "no masks": (
        BASE,
        {"mask_prob": 0},
        "^mask_prob is 0; expected more than 0: the loss is computed on masked steps$",
    ),
    "warm-up to the end": (CONFIG, {"warmup_updates": 7}, r"7; .* below updates \(7\)"),
    "warm-up before the start": (CONFIG, {"warmup_updates": -1}, "warmup_updates is -1; expected "),
    "crops larger than a batch": (
        CONFIG,
        {"max_tokens": 11_999},
        "^min_sample_size is 8000, max_sample_size 12000 and max_tokens 11999; expected "
        "non-decreasing values, because a micro-batch holds at least one utterance$",
    ),
    "minimum above maximum": (CONFIG, {"min_sample_size": 12_001}, "min_sample_size is 12001, m"),
    "heads": (
        BASE,
        {"encoder_attention_heads": 7},
        "encoder_attention_heads 7 does not divide encoder_embed_dim 768: 5 would be left over",
    ),
    "groups": (BASE, {"conv_pos_groups": 7}, "conv_pos_groups 7 does not divide encoder_embed_dim"),
    "codebooks": (BASE, {"latent_groups": 3}, "latent_groups 3 does not divide final_dim 256: 1 "),
    "no convolution": (BASE, {"conv_feature_layers": ()}, r"conv_feature_layers is \(\); exp"),
    "no stride": (
        BASE,
        {"conv_feature_layers": ((512, 10),)},
        r"conv_feature_layers is \(\(512, 10\),\); expected \(channels, kernel, stride\) per lay",
    ),
    "no kernel": (BASE, {"conv_feature_layers": ((512, 0, 5),)}, "conv_feature_layers is .* expec"),
}  # fmt: skip


@pytest.mark.parametrize("config, changes, message", ERRORS.values(), ids=ERRORS)
def test_config_errors_name_field_and_expectation(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_config_accepts_boundary_values():
    replace(CONFIG, warmup_updates=0, epochs=None, eval_passes=2)
    replace(CONFIG, warmup_updates=6, min_sample_size=12_000, max_tokens=12_000)
    replace(BASE, mask_prob=1.0, dropout=0.0, encoder_layerdrop=0)


DEFAULTS = {
    "Network": {
        "conv_feature_layers": (
            (512, 10, 5),
            (512, 3, 2),
            (512, 3, 2),
            (512, 3, 2),
            (512, 3, 2),
            (512, 2, 2),
            (512, 2, 2),
        ),
        "layer_norm_first": False,
        "latent_vars": 320,
        "latent_groups": 2,
        "latent_temp": (2.0, 0.5, 0.999995),
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "mask_prob": 0.65,
        "mask_length": 10,
        "num_negatives": 100,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "dropout_input": 0.1,
        "dropout_features": 0.1,
        "encoder_layerdrop": 0.05,
        "feature_grad_mult": 0.1,
    },
    "ReleasedWeights": {"data": "wav2vec2-large-weights"},
    "Preparation": {
        "data": "librispeech",
        "shuffle_seed": 0,
        "train": 200,
        "valid": 40,
        "voices": 8,
    },
    "Pretraining": {
        "seed": 0,
        "data": "librispeech",
        "epochs": None,
        "min_sample_size": 32000,
        "betas": (0.9, 0.98),
        "eps": 1e-06,
        "weight_decay": 0.01,
        "loss_weights": (0.1, 10.0),
        "precision": "fp16",
        "eval_updates": 25000,
        "eval_passes": 8,
        "log_updates": 200,
    },
}
"""Those of fairseq's wav2vec2_base_librispeech, and of the authors' release for DyT."""


def test_defaults_of_speech_configs():
    assert {name: found for name, found in defaults_of(configs).items() if found} == DEFAULTS
    assert configs.Pretraining.__dataclass_fields__["norm"].default_factory() == Norm.own()


def test_training_overrides_are_the_settings_of_the_config():
    from dyt_wav2vec import fairseq_config, fairseq_plugin

    config = replace(
        CONFIG,
        seed=5,
        precision="fp16",
        max_sample_size=9_000,
        min_sample_size=8_500,
        max_tokens=18_001,
        micro_batches_per_update=6,
        loss_weights=(0.2, 7.0),
        updates=11,
        epochs=4,
        lr=0.003,
        betas=(0.8, 0.7),
        eps=1e-5,
        weight_decay=0.02,
        warmup_updates=2,
    )
    found = fairseq_config.training_overrides(config)
    own = found.pop("model")
    assert found == {
        "common": {"seed": 5, "fp16": True},
        "task": {
            "_name": fairseq_plugin.TASK,
            "max_sample_size": 9_000,
            "min_sample_size": 8_500,
            "normalize": False,
        },
        "dataset": {"max_tokens": 18_001, "skip_invalid_size_inputs_valid_test": True},
        "distributed_training": {
            "distributed_world_size": 6,
            "ddp_backend": "legacy_ddp",
        },
        "criterion": {
            "_name": "wav2vec",
            "infonce": True,
            "log_keys": ["prob_perplexity", "code_perplexity", "temp"],
            "loss_weights": [0.2, 7.0],
        },
        "optimization": {"max_update": 11, "max_epoch": 4, "lr": [0.003]},
        "optimizer": {
            "_name": "adam",
            "adam_betas": "(0.8, 0.7)",
            "adam_eps": 1e-5,
            "weight_decay": 0.02,
        },
        "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 2},
    }
    assert own["_name"] == fairseq_plugin.MODEL
    assert own["norm"] == fairseq_plugin.norm_to_json(config.norm)
    plain = fairseq_config.training_overrides(replace(config, epochs=None, precision="fp32"))
    assert plain["optimization"]["max_epoch"] == 0 and plain["common"]["fp16"] is False


@pytest.mark.parametrize(("device", "on_cpu", "index"), [("cpu", True, 0), ("cuda:3", False, 3)])
def test_runtime_overrides_are_those_of_the_process(tmp_path, device, on_cpu, index):
    from dyt_wav2vec import fairseq_config

    place = Context(directory=tmp_path, signature="x", rank=1, world_size=2, num_workers=5)
    config = replace(CONFIG, micro_batches_per_update=6)
    assert fairseq_config.runtime_overrides(config, place, tmp_path, torch.device(device)) == {
        "common": {"cpu": on_cpu, "fp16_no_flatten_grads": on_cpu},
        "task": {"data": str(tmp_path)},
        "dataset": {"num_workers": 5, "data_buffer_size": 0},
        "distributed_training": {
            "distributed_world_size": 2,
            "distributed_rank": 1,
            "distributed_no_spawn": True,
            "device_id": index,
        },
        "optimization": {"update_freq": [3]},
    }


def test_training_overrides_set_fairseqs_config():
    from dyt_wav2vec import fairseq_config

    cfg = fairseq_config.merged_config(
        fairseq_config.training_overrides(replace(CONFIG, seed=5, network=LARGE))
    )
    assert cfg.common.seed == cfg.task.seed == 5
    assert cfg.lr_scheduler.total_num_update == cfg.optimization.max_update == 7
    assert (cfg.lr_scheduler.warmup_updates, cfg.optimizer.lr) == (3, [0.002])
    assert (cfg.optimizer.adam_betas, cfg.optimizer.adam_eps) == ("(0.9, 0.98)", 1e-6)
    assert cfg.optimizer.weight_decay == 0.01
    assert cfg.criterion.loss_weights == [0.1, 10.0]
    assert (cfg.task.max_sample_size, cfg.task.min_sample_size) == (12_000, 8_000)
    assert cfg.dataset.max_tokens == cfg.dataset.max_tokens_valid == 24_000
    assert (cfg.model.encoder_layers, cfg.model.layer_norm_first) == (24, True)
    assert cfg.model.latent_temp == [2.0, 0.1, 0.999995]


def test_config_imports_neither_torch_nor_fairseq():
    code = "import sys, dyt_wav2vec.config; print({'torch', 'fairseq'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout == "set()\n"
