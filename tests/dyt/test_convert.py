"""Tests of `convert`: replacement of norm layers, everything it preserves, and its errors."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dyt import Derf, DyT, Norm, convert


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.attn_norm = nn.LayerNorm(width)
        self.attn = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x):
        x = x + self.attn(self.attn_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Net(nn.Module):
    """Map x (B, T, 8) to (B, T, 8), with five LNs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


PATHS = (
    "stem.1",
    "blocks.0.attn_norm",
    "blocks.0.mlp_norm",
    "blocks.1.attn_norm",
    "blocks.1.mlp_norm",
)


def norms(net):
    return [m for m in net.modules() if isinstance(m, (DyT, Derf))]


def test_convert_replaces_only_norms_in_place():
    net = Net()
    others = {name: p for name, p in net.named_parameters() if "norm" not in name}
    report = convert(net, Norm.dyt(0.8))
    assert report.paths == PATHS
    assert len(report) == len(norms(net)) == 5
    assert not any(isinstance(m, nn.LayerNorm) for m in net.modules())
    for name, p in net.named_parameters():
        if name in others:
            assert p is others[name]
    assert all(layer.alpha.item() == pytest.approx(0.8) for layer in norms(net))
    net(torch.randn(2, 3, 8)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_convert_default_is_dyt_with_alpha0_one_half():
    net = Net()
    assert convert(net).norm == Norm.dyt(0.5)
    assert {type(layer) for layer in norms(net)} == {DyT}


def test_convert_passes_norm_options_to_layers():
    net = convert_fresh(Norm.derf(0.7, 0.2))
    assert {type(layer) for layer in norms(net)} == {Derf}
    assert net.stem[1].alpha.item() == pytest.approx(0.7)
    assert net.stem[1].shift.item() == pytest.approx(0.2)
    net = convert_fresh(Norm.dyt(squash="hardtanh", alpha="absent"))
    assert {layer.squash for layer in norms(net)} == {"hardtanh"}
    assert all(layer.alpha is None for layer in norms(net))
    assert all(".alpha" not in name for name in net.state_dict())


def convert_fresh(norm, **options):
    net = Net()
    convert(net, norm, **options)
    return net


def test_convert_own_changes_nothing_and_reports_same_paths():
    net = Net()
    before = {name: (module, id(module)) for name, module in net.named_modules()}
    report = convert(net, Norm.own(), skip="blocks.1")
    assert {name: (module, id(module)) for name, module in net.named_modules()} == before
    assert [(r.old, r.new, r.alpha0) for r in report] == [("LayerNorm", "LayerNorm", None)] * 3
    assert report.paths == convert(Net(), Norm.derf(), skip="blocks.1").paths
    assert "own: 3 norm layers found, none replaced" in str(report)


def test_convert_per_path_alpha0():
    norm = Norm.dyt(0.2, alpha0_at=(("*.attn_norm", 0.8), ("stem", 0.4)))
    net = Net()
    report = convert(net, norm)
    expected = [0.4, 0.8, 0.2, 0.8, 0.2]
    assert [r.alpha0 for r in report] == expected
    assert [layer.alpha.item() for layer in norms(net)] == pytest.approx(expected)


def test_convert_resets_or_copies_gamma_and_beta():
    net = Net()
    for p in net.stem[1].parameters():
        nn.init.constant_(p, 0.3)
    trained = copy.deepcopy(net)
    convert(net)
    assert net.stem[1].weight.tolist() == [1.0] * 8
    assert net.stem[1].bias.tolist() == [0.0] * 8
    convert(trained, copy_affine=True)
    assert trained.stem[1].weight.tolist() == pytest.approx([0.3] * 8)
    assert trained.stem[1].bias.tolist() == pytest.approx([0.3] * 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_convert_parameterless_norm_takes_enclosing_dtype(dtype):
    net = nn.Sequential(
        nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False)),
        nn.LayerNorm(8),
    ).to(dtype)
    net.append(nn.Linear(8, 8))  # float32, but not the nearest enclosing module
    convert(net)
    assert {p.dtype for layer in norms(net) for p in layer.parameters()} == {dtype}


def test_convert_keeps_dtype_and_requires_grad_of_each_norm():
    net = Net().to(torch.bfloat16)
    net.stem[1].float().requires_grad_(False)
    convert(net)
    assert {(p.dtype, p.requires_grad) for p in net.stem[1].parameters()} == {
        (torch.float32, False)
    }
    assert all(p.requires_grad for p in net.blocks.parameters())


@pytest.mark.parametrize("frozen", [["0.weight"], ["0.weight", "0.bias"]])
def test_convert_trains_alpha_if_any_enclosing_parameter_is_trained(frozen):
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False))
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    convert(net)
    assert net[1].alpha.requires_grad == (len(frozen) == 1)


def test_convert_parameterless_norm_looks_at_floating_point_parameters_alone():
    def norm_in(**parameters):
        net = nn.Sequential(nn.LayerNorm(8, elementwise_affine=False))
        for name, value in parameters.items():
            net.register_parameter(name, nn.Parameter(value, requires_grad=False))
        convert(net)
        return net[0].alpha

    index, frozen = torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.float64)
    alone, indexed, next_to = norm_in(), norm_in(index=index), norm_in(index=index, scale=frozen)
    assert (alone.dtype, alone.requires_grad) == (torch.float32, True)
    assert (indexed.dtype, indexed.requires_grad) == (torch.float32, True)
    assert (next_to.dtype, next_to.requires_grad) == (torch.float64, False)


def test_convert_without_alpha_fits_gamma_and_beta_to_data():
    """There is nothing to fit without copy_affine, but γ and β of each channel with it."""
    report = convert(
        Net(), Norm.dyt(alpha="absent"), copy_affine=True, calibrate=torch.randn(4, 5, 8)
    )
    assert [r.alpha0 for r in report] == [None] * 5
    assert all(r.fit.weight.shape == r.fit.bias.shape == (8,) for r in report)


def test_convert_on_meta_device():
    with torch.device("meta"):
        net = nn.Sequential(Net(), nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False))
    assert len(convert(net)) == 6
    assert all(p.is_meta for p in net.parameters())


def test_convert_keeps_training_mode_and_requires_grad():
    net = nn.Sequential(Net(), nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, 1e-6, False)))
    net[0].blocks[0].eval()
    net[0].blocks[0].requires_grad_(False)
    net[1].requires_grad_(False)
    convert(net, Norm.derf())
    frozen = net[0].blocks[0].mlp_norm
    assert not frozen.training
    assert net[0].blocks[1].mlp_norm.training
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in net[0].blocks[1].parameters())
    assert not any(p.requires_grad for p in net[1].parameters())


def test_convert_keeps_parameter_attributes():
    net = Net()
    net.stem[1].weight._optim = {"lr": 0.1}
    net.stem[1].weight._no_weight_decay = True
    net.stem[1].bias._optim = {"lr": 0.2}
    convert(net, Norm.derf())
    new = net.stem[1]
    assert new.weight._optim == new.alpha._optim == new.shift._optim == {"lr": 0.1}
    assert new.alpha._no_weight_decay
    assert new.bias._optim == {"lr": 0.2}
    assert not hasattr(net.blocks[0].mlp_norm.alpha, "_optim")


def test_optimizer_created_before_convert_trains_gamma_and_beta():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    convert(net)
    net(torch.randn(2, 3, 8)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(net.stem[1].weight, torch.ones(8))
    assert not torch.equal(net.stem[1].bias, torch.zeros(8))


def test_convert_draws_no_random_numbers():
    net = Net()
    before = torch.get_rng_state()
    convert(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_convert_keeps_shared_modules_shared():
    net = Net()
    net.blocks[1].attn_norm = net.blocks[0].attn_norm
    net.tail = net.blocks[1]
    report = convert(net)
    assert len(report) == 4
    assert net.blocks[1].attn_norm is net.blocks[0].attn_norm is net.tail.attn_norm
    assert net.tail.mlp_norm is net.blocks[1].mlp_norm
    assert set(report.paths) == {*PATHS, "tail.attn_norm", "tail.mlp_norm"}
    assert "blocks.0.attn_norm = blocks.1.attn_norm = tail.attn_norm" in str(report)


def test_convert_rejects_two_alpha0_for_a_shared_layer():
    net = Net()
    net.blocks[1].attn_norm = net.blocks[0].attn_norm
    with pytest.raises(ValueError, match=r"one shared layer, but alpha0_at assigns it 0.5 and 0.8"):
        convert(net, Norm.dyt(alpha0_at=(("blocks.1.attn_norm", 0.8),)))


def test_convert_skip_by_glob_or_parent_path():
    for pattern in ("blocks.0", "blocks.0.*", "*.0"):
        net = Net()
        report = convert(net, skip=[pattern])
        assert [k.path for k in report.kept] == ["blocks.0.attn_norm", "blocks.0.mlp_norm"]
        assert report.paths == ("stem.1", "blocks.1.attn_norm", "blocks.1.mlp_norm")
        assert type(net.blocks[0].mlp_norm) is nn.LayerNorm
        assert "kept by skip: 2 × LayerNorm" in str(report)


def conv_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)
    )


def test_convert_keeps_batchnorm_and_groupnorm_unless_listed_in_also():
    net = conv_net()
    net.append(nn.LayerNorm(4))
    report = convert(net)
    assert report.paths == ("4",)
    assert [k.layer for k in report.left] == ["BatchNorm2d", "GroupNorm"]

    net = conv_net()
    nn.init.constant_(net[1].weight, 0.3)
    report = convert(net, also=(nn.BatchNorm2d, nn.GroupNorm), copy_affine=True)
    assert [(r.path, r.channel_axis, r.shape) for r in report] == [("1", 1, (8,)), ("3", 1, (8,))]
    assert net[1].weight.tolist() == pytest.approx([0.3] * 8)
    net(torch.randn(2, 3, 6, 6)).sum().backward()

    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8, affine=False))
    convert(net, also=nn.BatchNorm1d)
    assert net[1].weight is None
    assert net(torch.randn(2, 3, 6)).shape == (2, 8, 4)


def test_convert_rejects_batchnorm_with_activation():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8))
    with pytest.raises(ValueError, match=r"'1' \(BatchNormAct2d\) cannot be replaced: it contains"):
        convert(net, also=nn.BatchNorm2d)


def test_converted_network_survives_deepcopy_pickle_and_state_dict():
    net = convert_fresh(Norm.derf())
    x = torch.randn(2, 3, 8)
    expected = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), expected)
    other = convert_fresh(Norm.derf())
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other(x), expected)
    twin = copy.deepcopy(net)
    nn.init.zeros_(twin.stem[1].alpha)
    assert torch.equal(net(x), expected)


def test_converted_network_compiles_as_one_graph():
    net = convert_fresh(Norm.dyt())
    x = torch.randn(2, 3, 8)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.slow
def test_converted_network_trains_compiled():
    net = convert_fresh(Norm.dyt())
    x = torch.randn(2, 3, 8)
    net(x).square().sum().backward()
    expected = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    torch.compile(net)(x).square().sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_converted_network_trains_under_ddp():
    net = convert_fresh(Norm.dyt())
    x = torch.randn(2, 3, 8)
    net(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        DistributedDataParallel(net)(x).square().sum().backward()
    finally:
        dist.destroy_process_group()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_skip_matches_every_path_of_a_shared_layer():
    shared = nn.LayerNorm(8)
    for pattern in ("first", "second"):
        model = nn.ModuleDict({"first": shared, "second": shared, "third": nn.LayerNorm(8)})
        report = convert(model, skip=pattern)
        assert report.paths == ("third",)
        assert model["first"] is model["second"] is shared
