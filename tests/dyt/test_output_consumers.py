"""Tests of output consumers: reads through views and outside torch's operators are detected.

Every network here computes fc(view(norm(x))) with different functions as `view`. The output of each
network is compared before and after folding.
"""

import numpy as np
import pytest
import torch
from torch import nn

from dyt import DyT, fold
from dyt.output_consumers import ParameterOwners

X = torch.linspace(-2, 2, 3 * 4 * 8).view(3, 4, 8)


class Net(nn.Module):
    def __init__(self, view) -> None:
        super().__init__()
        self.norm, self.fc = DyT(8), nn.Linear(8, 8)
        self.view = view

    def forward(self, x):
        return self.fc(self.view(self.norm(x)))


def folds(net: nn.Module, x=X, example: bool = True) -> str | None:
    """Fold with random γ and β, compare outputs, and return the reason if not folded, else None."""
    for p in net.norm.parameters():
        nn.init.normal_(p, 0.7, 0.3)
    net.eval()
    with torch.no_grad():
        before = net(x)
        report = fold(net, x) if example else fold(net)
        torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-5)
    return report[0].reason


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y[:, -1],
        lambda y: y[:, 1:].transpose(0, 1),
        lambda y: y.reshape(-1, 8),
        lambda y: y[:, :1].expand(-1, 5, -1),
        lambda y: y.unfold(1, 1, 1).squeeze(-1),
        lambda y: y.view(torch.int32).view(torch.float32),
        lambda y: y.detach().contiguous(),
    ],
)
def test_fold_through_views_of_whole_positions(view):
    assert folds(Net(view)) is None


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y.view(3, 2, 16)[..., 4:12],
        lambda y: y.view(3, 8, 4).mT.reshape(3, 4, 8),
        lambda y: y.flatten()[4:92].view(11, 8),
        lambda y: y[..., :1].expand(-1, -1, 8),
        lambda y: y[:2].reshape(8, 8).T,
    ],
)
def test_fold_leaves_views_that_move_channels(view):
    assert folds(Net(view)) is not None


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (lambda y: y.flip(-1), "aten.flip"),
        (lambda y: y.add_(1), "aten.add_"),
        (lambda y: y + y[:, :1].mean(), "aten.mean"),
        (lambda y: y + y.max().item(), "aten.max"),
        (lambda y: torch.tensor(y.tolist()), "tolist"),
        (lambda y: torch.from_numpy(y.numpy() + 1), "numpy"),
        (lambda y: torch.from_numpy(np.asarray(y) + 1), "numpy|__array__"),
        (lambda y: torch.from_dlpack(y.__dlpack__()), "__dlpack__"),
        (lambda y: y if y.data_ptr() else None, "data_ptr"),  # used by Triton kernels
    ],
)
def test_fold_reason_names_the_consumer(view, reason):
    found = folds(Net(view))
    assert any(word in found for word in reason.split("|"))


def test_copy_in_inference_mode_is_a_consumer():
    class Copies(Net):
        def forward(self, x):
            y = self.norm(x)
            with torch.inference_mode():
                copied = self.view(y)
            return self.fc(y) + copied

    assert "reads" in folds(Copies(lambda y: y.mT.reshape(3, 4, 8)))


def test_autograd_function_is_a_consumer():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return 2 * y

    assert "aten.mul" in folds(Net(Double.apply))


def test_fold_leaves_outputs_kept_in_a_cache():
    cache = []

    def keep(y):
        cache.append(y[0])
        return y

    assert "kept" in folds(Net(keep))


def test_fold_is_not_prevented_by_a_reference_cycle():
    """Nothing reads an output that is only part of a cycle."""

    def view(y):
        cycle = [y]
        cycle.append(cycle)
        return y

    assert folds(Net(view)) is None


def test_fold_with_strided_input():
    transposed = X.view(3, 8, 4).mT
    assert folds(Net(lambda y: y), transposed) is None
    assert folds(Net(lambda y: y.mT.reshape(12, 8)), transposed) is not None


def test_fold_leaves_views_of_another_dtype():
    net = Net(lambda y: y.view(torch.float16))
    net.norm.bfloat16()
    net.fc.half()
    assert folds(net, X.bfloat16()) is not None


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("name", ["norm", "fc"])
def test_fold_leaves_patched_forward(name, example):
    net = Net(lambda y: y)
    module = net.get_submodule(name)
    module.forward = lambda x: 2 * type(module).forward(module, x)
    assert folds(net, example=example) is not None


@pytest.mark.parametrize("example", [True, False])
def test_fold_leaves_linear_shared_with_torch_module(example):
    class Shared(Net):
        def forward(self, x):
            return super().forward(self.encoder(x))

    net = Shared(lambda y: y)
    net.encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    net.encoder.linear1 = net.fc
    assert "fc has" in folds(net, example=example)


def test_parameter_owners_by_the_exact_range_of_memory():
    memory = torch.zeros(9)
    net = nn.Sequential(nn.Linear(4, 1), nn.Linear(4, 1))
    net[0].weight.data, net[1].weight.data = memory[:4].view(1, 4), memory[4:8].view(1, 4)
    owners = ParameterOwners(net)
    assert [owners.of(memory[i : i + 1]) for i in (0, 3, 4, 7, 8)] == [
        {net[0]}, {net[0]}, {net[1]}, {net[1]}, set(),
    ]  # fmt: skip
    assert owners.of(memory[3:5]) == {*net} and owners.of(net[0].bias) == {net[0]}


def test_fold_with_weights_in_one_storage():
    net = Net(lambda y: y)
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    for p in net.parameters():
        size = p.numel()
        p.data, flat = flat[:size].view(p.shape), flat[size:]
    assert folds(net) is None


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
def test_fold_compiled_network():
    net = torch.compile(Net(lambda y: y), backend="eager")
    net(X)
    assert folds(net) is None
    assert net.norm.weight is None


class Branches(Net):
    """A sum of the layer and the Linear inside an operator that hides its parts."""

    def forward(self, x):
        def branch(x):
            y = self.norm(x)
            return y + self.fc(y)

        return self.view(branch, x)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
@pytest.mark.parametrize(
    "inside",
    [
        lambda branch, x: torch.cond(x.sum() > 0, branch, lambda x: 2 * branch(x), (x,)),
        lambda branch, x: torch.func.vmap(branch)(x),
    ],
    ids=["cond", "vmap"],
)
def test_fold_leaves_layers_inside_transforms(inside):
    assert "hides its readers" in folds(Branches(inside))


@pytest.mark.filterwarnings(
    "ignore:Dynamo does not know", "ignore:flex_attention called without torch.compile"
)
def test_fold_next_to_higher_order_operators():
    flex_attention = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention

    class Attention(Net):
        def forward(self, x):
            y = super().forward(x)[:, None]
            return flex_attention(y, y, y)

    assert folds(Attention(lambda y: y)) is None


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_fold_next_to_scripted_modules():
    scripted = torch.jit.script(nn.Linear(8, 8))
    assert "aten.addmm" in folds(Net(scripted))
