"""Sharding: sharded runs are the same as unsharded ones, and what cannot be sharded is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from matched.training import sharding

from .problem import CPU, TrainedRun, grouped, learner, network


@pytest.mark.parametrize(
    "suffix, unsharded", [("", "own-0"), ("-dyt", "dyt-0"), ("-scaled", "scaled")]
)
def test_sharded_run_equals_unsharded_run(two_processes, suffix, unsharded):
    """With clipped gradients, an evaluated EMA, dropout, mixup and parameter groups.

    DyT's alpha is a single number, of which one process has everything and the other nothing.
    """
    sharded = TrainedRun(directory=two_processes / f"sharded{suffix}")
    unsharded = TrainedRun(directory=two_processes / unsharded)
    assert sharded.json("fingerprint.json") == unsharded.json("fingerprint.json")
    assert sharded.losses == pytest.approx(unsharded.losses, rel=1e-5)
    assert sharded.gradient_norms == pytest.approx(unsharded.gradient_norms, rel=1e-4)
    metrics, expected = (run.lines[-1]["evaluation"] for run in (sharded, unsharded))
    assert metrics == pytest.approx(expected, rel=1e-5)
    one, other = sharded.state, unsharded.state
    for part in ("model", "ema", "optimizer"):
        assert one[part].keys() == other[part].keys() and one[part]
        for name, tensor in one[part].items():
            torch.testing.assert_close(tensor, other[part][name], rtol=1e-4, atol=1e-6)
    assert one["groups"] == other["groups"]


def test_sharded_run_equals_one_process_that_accumulates(two_processes, uninterrupted):
    sharded = TrainedRun(directory=two_processes / "sharded")
    assert sharded.losses == pytest.approx(uninterrupted.losses, rel=1e-4)
    assert sharded.json("fingerprint.json") == uninterrupted.json("fingerprint.json")


def test_sharded_alphas_are_gathered_for_the_metrics(two_processes):
    lines, expected = (
        [line for line in TrainedRun(directory=two_processes / name).lines if "evaluation" in line]
        for name in ("sharded-dyt", "dyt-0")
    )
    assert len(lines) == len(expected) == 4
    for line, other in zip(lines, expected, strict=True):
        assert line["alpha"] == pytest.approx(other["alpha"], rel=1e-5)
        assert list(line["alpha"]) == ["1"]


def test_fp16_overflow_on_one_process_skips_the_step_everywhere(two_processes):
    sharded = TrainedRun(directory=two_processes / "sharded-fp16")
    unsharded = TrainedRun(directory=two_processes / "fp16")
    assert sharded.state["scaler"] == unsharded.state["scaler"]
    assert unsharded.state["scaler"]["scale"] < 2**16
    assert sharded.losses == pytest.approx(unsharded.losses, rel=1e-2)
    for steps in (run.state["optimizer"]["0.weight.step"] for run in (sharded, unsharded)):
        assert 0 < steps < 12


def test_shard_refuses_batch_norm(two_processes):
    for rank in range(2):
        log = (two_processes / "logs" / f"sharded-batchnorm-{rank}.txt").read_text()
        assert "ended by ValueError: 1 is a batch norm, whose running statistics would" in log


def test_shard_refuses_an_ema_with_floating_point_buffers():
    model = network()
    model.register_buffer("mean", torch.zeros(3))
    with pytest.raises(ValueError, match="mean is a floating-point buffer, which an EMA of shard"):
        sharding.shard(learner(**grouped(model)), torch.device("cpu"))


BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("precision", "parameters", "reduction"),
    [("fp32", None, None), ("bf16-params", BF16, FP32), ("bf16-reduce", BF16, BF16)],
)
def test_shard_divides_each_block_of_model_and_ema(monkeypatch, precision, parameters, reduction):
    """Each block by itself and the rest last, in the same precision and over the same processes."""
    calls = []

    def fully_shard(module, *, mesh, mp_policy):
        calls.append((module, mesh, mp_policy.param_dtype, mp_policy.reduce_dtype))

    monkeypatch.setattr(sharding, "fully_shard", fully_shard)
    monkeypatch.setattr(sharding, "device_mesh", lambda device, degree: (device.type, degree))
    problem = learner()
    problem.ema.module.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    sharding.shard(problem, CPU, precision=precision, degree=2)
    parts = [
        m for net in (problem.model, problem.ema.module) for m in (net[0], net[1], net[4], net)
    ]
    assert calls == [(part, ("cpu", 2), parameters, reduction) for part in parts]


@pytest.mark.parametrize(
    ("degree", "mesh"),
    [
        (0, ((8,), None)),
        (8, ((8,), None)),
        (2, ((4, 2), ("replicate", "shard"))),
        (1, ((8, 1), ("replicate", "shard"))),
    ],
)
def test_device_mesh_has_copies_of_the_weights_for_a_degree(monkeypatch, degree, mesh):
    monkeypatch.setattr(sharding.dist, "get_world_size", lambda: 8)
    monkeypatch.setattr(
        sharding,
        "init_device_mesh",
        lambda device, shape, mesh_dim_names=None: (device, shape, mesh_dim_names),
    )
    assert sharding.device_mesh(CPU, degree) == ("cpu", *mesh)
    with pytest.raises(ValueError, match="shard_degree"):
        sharding.device_mesh(CPU, 3)


def test_reshard_frees_every_sharded_part(monkeypatch):
    class Part(nn.Linear):
        def reshard(self):
            freed.append(self)

    freed = []
    monkeypatch.setattr(sharding, "FSDPModule", Part)
    parts = [Part(2, 2), Part(2, 2)]
    sharding.reshard(nn.Sequential(parts[0], nn.Tanh(), nn.Sequential(parts[1])))
    assert freed == parts


@pytest.mark.parametrize(
    ("norm", "refused"),
    [
        (nn.BatchNorm1d(2), True),
        (nn.SyncBatchNorm(2), False),
        (nn.BatchNorm1d(2, track_running_stats=False), False),
    ],
    ids=["batch norm", "synchronized", "without statistics"],
)
def test_shard_refuses_only_statistics_of_one_process(norm, refused):
    problem = SimpleNamespace(model=nn.Sequential(nn.Linear(2, 2), norm), ema=None)
    if not refused:
        sharding._check_shardable(problem)
        return
    with pytest.raises(
        ValueError, match=r"^1 is a batch norm, .*; use SyncBatchNorm, or train with"
    ):
        sharding._check_shardable(problem)


class TestBlocks:
    def block(self):
        return nn.ModuleDict({"proj": nn.Linear(2, 2), "mlp": network()})

    def names(self, model):
        paths = {module: path for path, module in model.named_modules()}
        return [paths[block] for block in sharding.blocks(model)]

    def test_blocks_of_a_transformer(self):
        blocks = nn.Sequential(*[self.block() for _ in range(3)])
        model = nn.ModuleDict({"stem": nn.Conv2d(3, 2, 1), "blocks": blocks, "head": network()[:2]})
        assert self.names(model) == ["blocks.0", "blocks.1", "blocks.2"]

    def test_blocks_of_encoder_and_decoder(self):
        lists = [nn.ModuleList([self.block() for _ in range(2)]) for _ in range(2)]
        model = nn.ModuleDict({"encoder": lists[0], "decoder": nn.ModuleDict({"layers": lists[1]})})
        expected = ["encoder.0", "encoder.1", "decoder.layers.0", "decoder.layers.1"]
        assert self.names(model) == expected

    def test_blocks_of_nested_lists(self):
        lists = nn.ModuleList([nn.ModuleList([self.block() for _ in range(2)]) for _ in range(2)])
        assert self.names(nn.ModuleDict({"stages": lists})) == [
            "stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1",
        ]  # fmt: skip

    def test_blocks_have_parameters(self):
        assert self.names(network()) == ["0", "1", "4"]
        activations = nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Linear(2, 2))
        assert self.names(activations) == []
