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

from ..messages import refused
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
    assert outcome.steps == 3
    assert outcome.details["hardware"] == (
        f"{latency.cpu_name()}, 1 thread, float32, torch {torch.__version__}"
    )


def test_latency_of_several_threads_counts_rounds(fixed_times, monkeypatch):
    """Rounds of the warm-up count as progress, and their times are left out."""
    threads, done = [], []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    measured = latency.time_variants(CONFIG, threads=3, progress=lambda *n: done.append(n))
    assert threads == [3] and done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert measured.hardware.startswith(f"{latency.cpu_name()}, 3 threads, float32, ")


def test_latency_takes_variants_in_another_order_each_round(monkeypatch):
    order = []
    monkeypatch.setattr(latency.Passes, "timed", lambda self, v, name, clock: order.append(v) or 1)
    latency.time_variants(CONFIG)
    rounds = [tuple(order[i : i + 5]) for i in range(0, len(order), 5)]
    assert len(rounds) == 2 * 4 and all(set(names) == set(EAGER) for names in rounds)
    assert len(set(rounds)) > 4
    first = list(order)
    order.clear()
    latency.time_variants(CONFIG)
    assert order == first
    order.clear()
    latency.time_variants(replace(CONFIG, seed=1))
    assert order != first


def test_latency_network_has_random_weights_and_tokens():
    config = replace(CONFIG, network=replace(NETWORK, std=0.5))
    passes = latency.Passes(config, CPU)
    for name, parameter in passes.model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.5, rel=0.1), name
        else:
            assert torch.equal(parameter, torch.ones_like(parameter))
    source = torch.Generator().manual_seed(latency.derive_seed(0, "tokens"))
    assert torch.equal(passes.tokens, torch.randint(300, (1, 12), generator=source))
    again = latency.Passes(config, CPU)
    assert torch.equal(again.model.lm_head.weight, passes.model.lm_head.weight)
    assert latency.Passes(replace(CONFIG, dtype="bfloat16"), CPU).model.dtype == torch.bfloat16


def test_latency_layers_start_at_the_config_s_alpha():
    config = replace(CONFIG, alpha0=0.7, network=replace(NETWORK, norm_eps=1e-3))
    layers = {name: latency.make_layer(name, config) for name in EAGER}
    for name in ("DyT", "DyT, kernel", "Derf"):
        assert layers[name].alpha.item() == pytest.approx(0.7) and layers[name].bias is None
    assert layers["RMSNorm"].variance_epsilon == 1e-3
    kinds = [type(layers[name]).__name__ for name in EAGER]
    assert kinds == ["LlamaRMSNorm", "FormulaDyT", "DyT", "Derf", "Identity"]


def test_latency_of_a_gpu_is_between_two_events(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            assert end is not self
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("idle"))
    assert latency.gpu_seconds(lambda: log.append("run")) == 0.25
    assert log == ["idle", "record", "run", "record", "wait"]


def test_latency_needs_the_kernel_of_the_device(monkeypatch):
    monkeypatch.setattr(latency.triton, "PROBLEM", "no Triton.")
    monkeypatch.setattr(latency.triton, "REMEDY", "Install it.")
    monkeypatch.setattr(latency.triton, "REPLACES_CPU_KERNEL", False)
    monkeypatch.setattr(latency.cpu, "PROBLEM", None)
    gpu = torch.device("cuda")
    for name in VARIANTS:
        needs_kernel = name in ("DyT, kernel", "Derf")
        problem = latency.kernel_problem(name, gpu)
        assert problem == ("no Triton. Install it." if needs_kernel else None)
        assert latency.kernel_problem(name, CPU) is None
    monkeypatch.setattr(latency.triton, "REPLACES_CPU_KERNEL", True)
    assert latency.kernel_problem("Derf", CPU) == "no Triton. Install it."


def test_latency_csv_has_quantiles_of_every_variant(fixed_times, tmp_path):
    latency.measure(context(tmp_path), CONFIG)
    with (tmp_path / "latency.csv").open(newline="") as file:
        rows = {(row["pass"], row["variant"], row["part"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * len(EAGER) * 2
    row = rows["training", "Derf", "layer"]
    assert row == {
        "pass": "training",
        "variant": "Derf",
        "part": "layer",
        "rounds": "3",
        "ms_p10": "90.0000",
        "ms_p50": "90.0000",
        "ms_p90": "90.0000",
    }
    assert rows["inference", "Derf", "model"]["ms_p50"] == "130.0000"


def test_latency_quantiles_are_of_the_rounds():
    times = {"RMSNorm": [0.3, 0.1, 0.2], "Identity": [0.1, 0.1, 0.1]}
    rows = latency.quantiles({"inference": times, "training": times})
    first = {key: value for key, value in rows[0].items() if key.startswith("ms")}
    assert first == {"ms_p10": "120.0000", "ms_p50": "200.0000", "ms_p90": "280.0000"}


def test_latency_times_every_variant_in_every_round():
    measured = latency.time_variants(CONFIG)
    assert not measured.left_out
    for times in measured.times.values():
        assert set(times) == set(EAGER)
        assert all(len(seconds) == 3 and min(seconds) >= 0 for seconds in times.values())


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
    assert refused(latency.measure, context(tmp_path), replace(CONFIG, device="cuda")) == (
        "the latency is to be measured on a GPU (device='cuda'), and torch finds none here; use a "
        'machine with a GPU, or the smoke scale, which has device="cpu"'
    )


def test_latency_on_a_small_gpu_ends_in_one_line(tmp_path, monkeypatch):
    class Card:
        total_memory = 24 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    large = replace(CONFIG, network=LLAMA_7B, device="cuda", dtype="bfloat16", length=4096)
    needed = large.memory(Resources(gpus=1, minutes=1)).total / 2**30
    assert refused(latency.measure, context(tmp_path), large) == (
        f"the network needs about {needed:.0f} GB, and a card has 24; use a GPU with more memory, "
        "or a smaller network"
    )
    assert needed > 24


def test_latency_is_measured_by_one_process(tmp_path):
    assert refused(latency.measure, context(tmp_path, world_size=2), CONFIG) == (
        "latency is measured by one process, not by 2; expected Resources with gpus=1, or "
        "processes=1 without a GPU"
    )


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
