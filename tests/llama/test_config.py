"""Configs of the language models: defaults, sizes, and refused values."""

from dataclasses import replace

import pytest

from dyt import Norm
from dyt_llama import config as configs
from dyt_llama import latency_config, network_config
from dyt_llama.config import Pretraining, Tokenization, ZeroShot
from dyt_llama.latency_config import Latency
from dyt_llama.network_config import Network, llama_of

from ..config_checks import assert_checks_counts, assert_checks_fractions, defaults_of, refusal

NETWORK = Network(width=32, depth=3, heads=4, kv_heads=2, ffn=48)
PRETRAINING = Pretraining(network=NETWORK, steps=2, batch=8, micro_batch=8, lr=1e-3)
LATENCY = Latency(
    network=NETWORK, device="cpu", dtype="float32", length=8, rounds=2, warmup_rounds=1
)

DEFAULTS = {
    "Tokenization": {
        "data": ("text", "tokenizer"),
        "vocabulary": None,
        "text_field": "text",
        "bos": "<s>",
        "eos": "</s>",
        "held_out": 0.0005,
    },
    "Pretraining": {
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "clip_norm": 1.0,
        "embedding_scale": False,
        "data": (),
        "length": 4096,
        "train_tokens": None,
        "decay": "all",
        "checkpointed": 0.0,
        "compile": False,
        "eval_samples": 1024,
        "eval_batch": 1,
    },
    "ZeroShot": {
        "data": ("zero-shot",),
        "tasks": (
            "anli_r1",
            "anli_r2",
            "anli_r3",
            "arc_challenge",
            "arc_easy",
            "boolq",
            "hellaswag",
            "openbookqa",
            "piqa",
            "record",
            "rte",
            "truthfulqa_mc1",
            "truthfulqa_mc2",
            "wic",
            "winogrande",
        ),
        "batch": 16,
        "precision": "bf16",
    },
    "Network": {
        "vocabulary": 32000,
        "positions": 4096,
        "rope_theta": 10000.0,
        "norm_eps": 1e-05,
        "std": 0.02,
    },
    "Latency": {
        "seed": 0,
        "alpha0": 0.5,
        "variants": (
            "RMSNorm",
            "DyT",
            "DyT, kernel",
            "Derf",
            "RMSNorm, compiled",
            "DyT, compiled",
            "Identity",
        ),
    },
}
"""Those of LLaMA 2, the authors' release, and lm-eval."""


def test_defaults_of_language_model_configs():
    found = {}
    for module in (configs, network_config, latency_config):
        found |= {name: defaults for name, defaults in defaults_of(module).items() if defaults}
    assert found == DEFAULTS
    assert PRETRAINING.norm == Norm.own()
    assert configs.REQUEST_TOKENS == 2048


def test_sizes_of_llamas():
    """Touvron et al. 2023, Table 2 and Llama 2's; width and depth of CVPR 2025, Table 12."""

    def sizes(network):
        assert (network.vocabulary, network.positions) == (32_000, 4096)
        return network.width, network.depth, network.heads, network.kv_heads, network.ffn

    assert sizes(network_config.LLAMA_7B) == (4096, 32, 32, 32, 11_008)
    assert sizes(network_config.LLAMA_13B) == (5120, 40, 40, 40, 13_824)
    assert sizes(network_config.LLAMA_34B) == (8192, 48, 64, 8, 22_016)
    assert sizes(network_config.LLAMA_70B) == (8192, 80, 64, 8, 28_672)
    assert sizes(network_config.LLAMA_1B4) == (2048, 24, 16, 4, 6144)
    assert sizes(llama_of(4096, 32)) == (4096, 32, 32, 32, 11_008)
    assert sizes(llama_of(5120, 40)) == (5120, 40, 40, 40, 13_824)
    assert sizes(llama_of(1024, 8)) == (1024, 8, 8, 8, 2816)
    assert sizes(llama_of(768, 2)) == (768, 2, 6, 6, 2048)
    assert sizes(llama_of(64, 2)) == (64, 2, 1, 1, 256)
    assert sizes(llama_of(1024, 8, kv_heads=2, ffn=100)) == (1024, 8, 8, 2, 100)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (NETWORK, "width depth heads kv_heads ffn vocabulary positions"),
        (Tokenization(data=("glosses",), vocabulary=300), "vocabulary"),
        (PRETRAINING, "length eval_samples eval_batch train_tokens"),
        (ZeroShot(), "batch"),
        (LATENCY, "length rounds warmup_rounds"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_language_model_configs_require_counts(config, names):
    assert_checks_counts(config, *names.split())


def test_language_model_configs_require_fractions():
    assert_checks_fractions(Tokenization(), "held_out")
    assert_checks_fractions(PRETRAINING, "checkpointed")


EITHER = 'expected either a vocabulary to train a tokenizer with, or "tokenizer" in data'
POSITIONS = "but the network has 4096 positions; shorten the {} or set network.positions"
TASKS = f"expected some of {', '.join(configs.METRICS)}, each once"
VARIANTS = (
    "expected 'RMSNorm', 'Identity' and any of 'DyT', 'DyT, kernel', 'Derf', 'RMSNorm, compiled', "
    "'DyT, compiled', each once"
)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (NETWORK, {"heads": 5}, "heads 5 does not divide width 32: 2 would be left over"),
        (NETWORK, {"kv_heads": 3}, "kv_heads 3 does not divide heads 4: 1 would be left over"),
        *(
            (NETWORK, {name: 0.0}, f"{name} is 0.0; expected a positive number")
            for name in ("rope_theta", "norm_eps", "std")
        ),
        (
            NETWORK,
            {"heads": 32},
            "each of 32 heads has 1 channels; rotary positions need an even number",
        ),
        (
            Tokenization(),
            {"vocabulary": 300},
            f"vocabulary is 300 and data ('text', 'tokenizer'); {EITHER}",
        ),
        (
            Tokenization(),
            {"data": ("glosses",)},
            f"vocabulary is None and data ('glosses',); {EITHER}",
        ),
        (PRETRAINING, {"decay": "none"}, "decay is 'none'; expected 'all' or 'matrices'"),
        (PRETRAINING, {"norm": "dyt"}, "norm is 'dyt'; expected a dyt.Norm, such as Norm.dyt()"),
        (PRETRAINING, {"length": 4097}, f"length is 4097, {POSITIONS.format('samples')}"),
        (ZeroShot(), {"precision": "fp16"}, "precision is 'fp16'; expected 'fp32' or 'bf16'"),
        (ZeroShot(), {"tasks": ()}, f"tasks is (); {TASKS}"),
        (ZeroShot(), {"tasks": ("rte", "rte")}, f"tasks is ('rte', 'rte'); {TASKS}"),
        (ZeroShot(), {"tasks": ("rte", "mmlu")}, f"tasks is ('rte', 'mmlu'); {TASKS}"),
        (
            ZeroShot(),
            {"data": ("glosses",), "tasks": ("gloss_word", "rte")},
            "data is ('glosses',); expected 'zero-shot' in it for ('gloss_word', 'rte')",
        ),
        (LATENCY, {"rounds": 1}, "rounds is 1; expected 2 or more, for quantiles"),
        (LATENCY, {"device": "gpu"}, "device is 'gpu'; expected 'cpu' or 'cuda'"),
        (LATENCY, {"dtype": "fp16"}, "dtype is 'fp16'; expected 'float32' or 'bfloat16'"),
        (LATENCY, {"length": 4097}, f"length is 4097, {POSITIONS.format('sequence')}"),
        *(
            (LATENCY, {"variants": variants}, f"variants are {variants}; {VARIANTS}")
            for variants in (
                ("RMSNorm", "DyT"),
                ("DyT", "Identity"),
                ("RMSNorm", "Identity", "LN"),
                ("RMSNorm", "Identity", "DyT", "DyT"),
            )
        ),
    ],
)
def test_language_model_configs_refuse(config, changes, message):
    assert refusal(config, **changes) == message


def test_pretraining_config_checks_the_settings_of_every_training():
    assert refusal(PRETRAINING, lr=0.0).startswith("lr 0.0")


def test_language_model_configs_accept_boundary_values():
    replace(PRETRAINING, length=4096, checkpointed=1, train_tokens=1)
    replace(LATENCY, length=4096, variants=("Identity", "RMSNorm"))
    replace(NETWORK, heads=16)
    replace(ZeroShot(), data=("glosses",), tasks=("gloss_word",))
