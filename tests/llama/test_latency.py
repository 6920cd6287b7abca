"""Latency task: variants in one network, metrics from times, and what cannot be measured here.

No test depends on a time: where the numbers matter, the clock is replaced.
"""

import csv
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from dyt_llama import latency
from dyt_llama.latency_config import VARIANTS, Latency
from dyt_llama.model import transformers_config
from dyt_llama.network_config import LLAMA_7B
from matched import Resources

from .tiny import CPU, NETWORK, context

EAGER = tuple(name for name in VARIANTS if not name.endswith(latency.COMPILED))
CONFIG = Latency(
    network=NETWORK,
    device="cpu",
    dtype="float32",
    length=12,
    rounds=3,
    warmup_rounds=1,
    variants=EAGER,
)
SECONDS = {"RMSNorm": 0.2, "DyT": 0.15, "DyT, kernel": 0.12, "Derf": 0.13, "Identity": 0.1}


@pytest.fixture
def fixed_times(monkeypatch):
    """Let each pass of a variant take the seconds of ``SECONDS``, and training three times that."""
    timed = latency.Passes.timed

    def replaced(self, variant, pass_, clock):
        timed(self, variant, pass_, clock)
        return SECONDS[variant] * (3 if pass_ == "training" else 1)

    monkeypatch.setattr(latency.Passes, "timed", replaced)


def test_latency_metrics_are_differences_to_identity(fixed_times, tmp_path):
    outcome = latency.measure(context(tmp_path), CONFIG)
    metrics = outcome.metrics
    assert metrics["DyT/inference_model"] == pytest.approx(15)
    assert metrics["DyT/inference_layer"] == pytest.approx(5)
    assert metrics["DyT/training_layer"] == pytest.approx(15)
    assert metrics["RMSNorm/inference_layer_share"] == pytest.approx(50)
    assert metrics["DyT, kernel/training_layer_share"] == pytest.approx(10)
    assert metrics["Identity/inference_model_share"] == pytest.approx(50)
    assert "Identity/inference_layer" not in metrics
    assert {key.partition("/")[0] for key in metrics} == set(EAGER)
    assert outcome.details["warnings"] == []
    assert outcome.details["hardware"].endswith(f"1 thread, float32, torch {torch.__version__}")


def test_latency_csv_has_quantiles_of_every_variant(fixed_times, tmp_path):
    latency.measure(context(tmp_path), CONFIG)
    with (tmp_path / "latency.csv").open(newline="") as file:
        rows = {(row["pass"], row["variant"], row["part"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * len(EAGER) * 2
    row = rows["training", "Derf", "layer"]
    assert (row["rounds"], row["ms_p10"], row["ms_p50"]) == ("3", "90.0000", "90.0000")


def test_latency_times_every_variant_in_every_round():
    measured = latency.time_variants(CONFIG)
    assert not measured.left_out
    for times in measured.times.values():
        assert set(times) == set(EAGER)
        assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in times.values())


def logits(passes, variant):
    found = []
    passes.timed(variant, "inference", lambda run: found.append(passes.model(passes.tokens).logits))
    return found[0]


def test_latency_exchanges_every_norm_of_the_network():
    passes = latency.Passes(CONFIG, CPU)
    assert len(passes.slots) == 2 * NETWORK.depth + 1
    stock = LlamaForCausalLM(transformers_config(NETWORK))
    stock.load_state_dict(passes.model.state_dict())
    assert torch.equal(logits(passes, "RMSNorm"), stock(passes.tokens).logits)
    torch.testing.assert_close(logits(passes, "DyT, kernel"), logits(passes, "DyT"))
    others = [logits(passes, name) for name in ("RMSNorm", "DyT", "Derf", "Identity")]
    assert all(not torch.equal(a, b) for i, a in enumerate(others) for b in others[:i])
    shapes = {layer.weight.shape for layer in passes.layers["DyT"]}
    assert shapes == {(NETWORK.width,)} and passes.layers["DyT"][0].bias is None


def test_latency_training_keeps_gradients_of_earlier_passes():
    passes = latency.Passes(CONFIG, CPU)
    weight = passes.model.lm_head.weight
    passes.timed("Identity", "training", latency.process_seconds)
    once = weight.grad.clone()
    passes.timed("Identity", "training", latency.process_seconds)
    torch.testing.assert_close(weight.grad, 2 * once)


def test_latency_leaves_out_kernels_that_cannot_run(fixed_times, tmp_path, monkeypatch):
    monkeypatch.setattr(latency.cpu, "PROBLEM", "no module named dyt_cpu_kernel")
    outcome = latency.measure(context(tmp_path), CONFIG)
    assert "DyT/inference_layer" in outcome.metrics
    assert "Derf/inference_layer" not in outcome.metrics
    first = outcome.details["warnings"][0]
    assert first.startswith("DyT, kernel was left out: no module named dyt_cpu_kernel. Run ")


def test_latency_leaves_out_what_cannot_be_compiled(monkeypatch):
    make_layer = latency.make_layer

    def broken(variant, config):
        layer = make_layer(variant.removesuffix(latency.COMPILED), config)
        if variant.endswith(latency.COMPILED):
            monkeypatch.setattr(layer, "forward", fail)
        return layer

    def fail(x):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(latency, "make_layer", broken)
    measured = latency.time_variants(replace(CONFIG, variants=VARIANTS))
    assert measured.left_out == {
        name: "RuntimeError: no C++ compiler" for name in VARIANTS if name not in EAGER
    }
    assert set(measured.times["training"]) == set(EAGER)


@pytest.mark.slow
def test_latency_times_compiled_norms():
    variants = ("RMSNorm", "RMSNorm, compiled", "DyT, compiled", "Identity")
    measured = latency.time_variants(replace(CONFIG, variants=variants))
    assert not measured.left_out and set(measured.times["inference"]) == set(variants)


def test_latency_on_a_missing_gpu_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = "to be measured on a GPU .*, and torch finds none here; use a machine with a GPU"
    with pytest.raises(ValueError, match=expected):
        latency.measure(context(tmp_path), replace(CONFIG, device="cuda"))


def test_latency_on_a_small_gpu_ends_in_one_line(tmp_path, monkeypatch):
    class Card:
        total_memory = 24 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    large = replace(CONFIG, network=LLAMA_7B, device="cuda", dtype="bfloat16", length=4096)
    with pytest.raises(ValueError, match=r"needs about \d\d GB, and a card has 24; use a GPU"):
        latency.measure(context(tmp_path), large)


def test_latency_is_measured_by_one_process(tmp_path):
    with pytest.raises(ValueError, match="measured by one process, not by 2"):
        latency.measure(context(tmp_path, world_size=2), CONFIG)


def test_latency_memory_has_no_optimizer():
    config = replace(CONFIG, network=LLAMA_7B, dtype="bfloat16", length=4096)
    estimate = config.memory(Resources(gpus=1, minutes=1))
    assert estimate.weights == estimate.gradients == 2 * 6_738_415_616
    assert estimate.optimizer == estimate.gathered == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": ("RMSNorm", "DyT")}, "expected 'RMSNorm', 'Identity' and any of 'DyT'"),
        ({"variants": ("RMSNorm", "Identity", "LN")}, "expected 'RMSNorm', 'Identity'"),
        ({"variants": ("RMSNorm", "DyT", "DyT", "Identity")}, "'Derf', .*, each once"),
        ({"length": 17}, "length is 17, but the network has 16 positions"),
        ({"rounds": 1}, "rounds is 1; expected 2 or more"),
        ({"alpha0": -0.5}, "alpha0 = -0.5"),
        ({"device": "gpu"}, "device is 'gpu'; expected 'cpu' or 'cuda'"),
        ({"dtype": "float16"}, "dtype is 'float16'; expected 'float32' or 'bfloat16'"),
    ],
)
def test_latency_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
