"""Tests of DyT's operator with DDP, FSDP and DTensor."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from dyt import Calibration, Derf, DyT, convert

try:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import (
        DTensor,
        Replicate,
        Shard,
        distribute_module,
        distribute_tensor,
    )
except ImportError:  # torch 2.4 and 2.5
    from torch.distributed._composable.fsdp import fully_shard
    from torch.distributed._tensor import (
        DTensor,
        Replicate,
        Shard,
        distribute_module,
        distribute_tensor,
    )


@pytest.fixture
def mesh(tmp_path):
    """A device mesh of one process."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), DyT(8), nn.Linear(8, 8), Derf(8, shift0=0.1))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    found = [p.grad for p in model.parameters()]
    return [g.full_tensor() if isinstance(g, DTensor) else g for g in found]


def assert_same(model: nn.Module, plain: nn.Module, x: Tensor) -> None:
    for found, expected in zip(gradients(model, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_ddp_gradients_equal_single_process(mesh):
    plain, x = net(), torch.randn(5, 6)
    model = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
    assert_same(model, plain, x)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
def test_fsdp_gradients_equal_single_process(mesh):
    plain, x = net(), torch.randn(5, 6)
    model = copy.deepcopy(plain)
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    with torch.profiler.profile() as profile:
        assert_same(model, plain, x)
    assert "dyt::dyt_backward" in {event.key for event in profile.key_averages()}


def test_calibration_sums_over_a_process_group(mesh):
    models = [nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(32, 6)
    alone = convert(models[0], copy_affine=True, calibrate=x)
    group = Calibration(x, group=distributed.group.WORLD)
    assert convert(models[1], copy_affine=True, calibrate=group)[0].fit.alpha == alone[0].fit.alpha


PROCESS = """
import sys, torch
from torch import distributed, nn
from dyt import Calibration, convert
store, rank = sys.argv[1], int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
model, x = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)), torch.randn(64, 6)
half = Calibration(x[32 * rank : 32 * rank + 32], group=distributed.group.WORLD)
fit = convert(model, copy_affine=True, calibrate=half)[0].fit
print(fit.alpha, *fit.weight.tolist())
"""


@pytest.mark.slow
def test_calibration_of_two_processes_equals_that_of_one(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / "store"), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (process.communicate(timeout=120)[0].split() for process in processes)
    assert first == second
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)), torch.randn(64, 6)
    fit = convert(model, copy_affine=True, calibrate=x)[0].fit
    expected = [fit.alpha, *fit.weight.tolist()]
    assert [float(value) for value in first] == pytest.approx(expected, rel=1e-3)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
def test_dtensor_uses_formula_and_keeps_placement(mesh, placement):
    plain, x = net()[1:2], torch.randn(4, 8)
    model = distribute_module(copy.deepcopy(plain), mesh)
    y = model(distribute_tensor(x, mesh, [placement]))
    assert y.placements == (placement,)
    torch.testing.assert_close(y.full_tensor(), plain(x), rtol=1e-5, atol=1e-6)
