"""Tests of the layers: γ·squash(αx + s) + β, checkpoints, dtypes, compilation and errors."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from dyt import Derf, DynamicErf, DynamicTanh, DyT


def randomize(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.2 + torch.rand(parameter.shape))
    return layer


SQUASHES = {
    "tanh": math.tanh,
    "hardtanh": lambda v: max(-1.0, min(1.0, v)),
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "identity": lambda v: v,
    "erf": math.erf,
}


@pytest.mark.parametrize("squash", SQUASHES)
@pytest.mark.parametrize("alpha", ["learnable", "absent"])
def test_dynamic_tanh_output_matches_formula(squash, alpha):
    layer = randomize(DyT(4, squash=squash, alpha=alpha))
    x = 3 * torch.randn(2, 3, 4)
    a = 1.0 if layer.alpha is None else layer.alpha.item()
    expected = torch.tensor(
        [
            g * SQUASHES[squash](a * v) + b
            for row in x.reshape(-1, 4).tolist()
            for v, g, b in zip(row, layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(layer(x).double(), expected.view(2, 3, 4), rtol=1e-6, atol=1e-6)


def test_derf_output_matches_formula_with_shift():
    layer = randomize(Derf(4, alpha0=0.5, shift0=0.1))
    x = torch.randn(2, 4)
    a, s = layer.alpha.item(), layer.shift.item()
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    expected = [
        [g * math.erf(a * v + s) + b for v, g, b in zip(row, weight, bias, strict=True)]
        for row in x.tolist()
    ]
    torch.testing.assert_close(layer(x), torch.tensor(expected))


@pytest.mark.parametrize("squash", ["tanh", "sigmoid", "erf"])
@pytest.mark.parametrize("channel_axis", [-1, 1])
def test_gradcheck_of_input_and_parameters(squash, channel_axis):
    options = {"channel_axis": channel_axis, "dtype": torch.float64}
    layer = Derf(3, **options) if squash == "erf" else DyT(3, squash=squash, **options)
    randomize(layer)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert {"alpha", "weight", "bias"} <= set(names)
    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_initial_values_and_reset_parameters():
    layer = DyT(3, alpha0=0.8)
    assert layer.alpha.tolist() == pytest.approx([0.8])
    assert layer.weight.tolist() == [1, 1, 1]
    assert layer.bias.tolist() == [0, 0, 0]
    randomize(layer).reset_parameters()
    assert layer.alpha.tolist() == pytest.approx([0.8])
    assert layer.weight.tolist() == [1, 1, 1]
    assert layer.bias.tolist() == [0, 0, 0]
    assert Derf(3, shift0=0.1).shift.tolist() == pytest.approx([0.1])


def test_dyt_and_derf_have_the_authors_names_as_well():
    assert (DynamicTanh, DynamicErf) == (DyT, Derf)
    assert (DyT.__name__, Derf.__name__) == ("DyT", "Derf")


def test_authors_checkpoints_load_strictly():
    checkpoint = {"alpha": torch.full((1,), 0.7), "weight": torch.rand(5), "bias": torch.rand(5)}
    layer = DyT(5)
    layer.load_state_dict(checkpoint, strict=True)
    assert torch.equal(layer.state_dict()["bias"], checkpoint["bias"])
    derf = Derf(5)
    derf.load_state_dict({**checkpoint, "shift": torch.zeros(1)}, strict=True)
    # The authors' DiT has only alpha, their LLaMA alpha and weight; no parameter is 0-d (FSDP).
    assert {k: tuple(v.shape) for k, v in DyT(5, affine=False).state_dict().items()} == {
        "alpha": (1,)
    }
    assert {k: tuple(v.shape) for k, v in DyT(5, bias=False).state_dict().items()} == {
        "alpha": (1,),
        "weight": (5,),
    }


def test_layer_draws_no_random_numbers():
    before = torch.get_rng_state()
    Derf(5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sizes", [(2, 4), (2, 4, 5), (2, 4, 5, 6), (2, 4, 5, 6, 7)])
def test_channel_axis_1_equals_moved_channels_last(sizes):
    first = randomize(DyT(4, channel_axis=1))
    last = DyT(4)
    last.load_state_dict(first.state_dict())
    x = torch.randn(sizes)
    torch.testing.assert_close(first(x), last(x.movedim(1, -1)).movedim(-1, 1))


def test_trailing_sizes_as_in_layer_norm():
    layer = randomize(DyT((2, 3)))
    assert layer.weight.shape == nn.LayerNorm((2, 3)).weight.shape
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(
        layer(x), layer.weight * torch.tanh(layer.alpha * x) + layer.bias, rtol=1e-6, atol=1e-6
    )
    assert DyT([4]).normalized_shape == DyT(torch.Size([4])).normalized_shape == (4,)


def test_layer_without_affine_takes_any_width():
    layer = DyT(None, affine=False)
    for width in (3, 7):
        x = torch.randn(2, width)
        torch.testing.assert_close(layer(x), torch.tanh(0.5 * x))


@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parameter_type", [torch.float32, torch.bfloat16])
def test_output_dtype_is_promoted(x_type, parameter_type):
    for options in ({}, {"affine": False}):
        layer = DyT(4, dtype=parameter_type, **options)
        y = layer(torch.randn(2, 4, dtype=x_type))
        assert y.dtype == torch.promote_types(x_type, parameter_type)


def test_training_under_autocast_between_linears():
    net = nn.Sequential(nn.Linear(4, 4), DyT(4), nn.Linear(4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(torch.randn(2, 4))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert net[1].alpha.grad.dtype == torch.float32
    assert net[1].alpha.grad.abs() > 0


@pytest.mark.parametrize("layer", [DyT(4), Derf(4, affine=False, channel_axis=1)])
def test_layers_survive_deepcopy_pickle_and_state_dict(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    x = torch.randn(2, 4, 4)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(twin(x), layer(x))
        twin.load_state_dict(layer.state_dict(), strict=True)


@pytest.mark.parametrize(
    "layer",
    [
        DyT(4),
        DyT(4, channel_axis=1),
        DyT(None, affine=False, squash="hardtanh"),
        DyT(4, squash="identity", alpha="absent"),
        Derf(4),
    ],
    ids=repr,
)
def test_layers_compile_as_one_graph(layer):
    x = torch.randn(2, 4, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), layer(x))


@pytest.mark.slow
def test_compiled_layer_matches_eager():
    layer = randomize(DyT(64))
    x = torch.randn(8, 64, requires_grad=True)
    plain = layer(x)
    plain.sum().backward()
    gradient, x.grad = x.grad, None
    compiled = torch.compile(layer, fullgraph=True)(x)
    compiled.sum().backward()
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(x.grad, gradient)


@pytest.mark.parametrize("layer", [DyT(None, affine=False), Derf(None, affine=False)])
def test_fx_traces_layer_of_any_width(layer):
    x = torch.randn(2, 8)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


def test_meta_device_then_to_empty():
    layer = DyT(4, device="meta")
    assert layer.alpha.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert torch.equal(layer(torch.ones(1, 4)), torch.tanh(torch.full((1, 4), 0.5)))


@pytest.mark.parametrize("alpha", ["learnable", "fixed"])
def test_to_empty_from_the_meta_device_initializes(alpha, monkeypatch):
    """Initialization code of other libraries does not cover the layer."""
    net = nn.Sequential(DyT(4, 0.8, device="meta", alpha=alpha), Derf(4, 0.7, 0.2, device="meta"))
    empty_like = torch.empty_like
    monkeypatch.setattr(
        torch, "empty_like", lambda *given, **options: empty_like(*given, **options).fill_(9.0)
    )
    net.to_empty(device="cpu")
    expected = nn.Sequential(DyT(4, 0.8, alpha=alpha), Derf(4, 0.7, 0.2))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name
    with torch.no_grad():
        net[0].bias.fill_(3.0)
    net.to_empty(device="cpu")
    assert set(net[0].bias.tolist()) == {9.0}, "a layer with values is not initialized again"


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (DyT(8), "DyT(8, alpha0=0.5)"),
        (
            DyT((2, 3), 0.8, bias=False, squash="hardtanh"),
            "DyT(2, 3, alpha0=0.8, squash='hardtanh', bias=False)",
        ),
        (
            DyT(8, affine=False, alpha="absent", channel_axis=1),
            "DyT(8, alpha='absent', affine=False, channel_axis=1)",
        ),
        (Derf(8, 0.5, 0.1), "Derf(8, alpha0=0.5, shift0=0.1)"),
        (DyT(None, affine=False), "DyT(any width, alpha0=0.5, affine=False)"),
    ],
)
def test_layer_repr(layer, text):
    assert repr(layer) == text


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "normalized_shape = 0 is not a width"),
        ((4.0,), {}, "normalized_shape = 4.0 is not a width"),
        ((True,), {}, "normalized_shape = True is not a width"),
        (((),), {}, r"normalized_shape = \(\) is not a width"),
        (((4, -1),), {}, "normalized_shape = "),
        ((None,), {}, "normalized_shape = None is not a width"),
        ((4,), {"channel_axis": 2}, "channel_axis = 2 is not supported. Use -1"),
        ((4,), {"channel_axis": True}, "channel_axis = True is not supported"),
        (((4, 5),), {"channel_axis": 1}, "channel_axis = 1 takes one width"),
        ((4,), {"squash": "relu"}, "squash = 'relu' is unknown. Use one of 'tanh'"),
        ((4,), {"alpha": True}, "alpha = True is unknown"),
        ((4, -1.0), {}, "alpha0 = -1.0 is not positive"),
        ((4, float("nan")), {}, "alpha0 = nan is not a finite number"),
        ((4,), {"eps": "small"}, "eps = 'small' is not a finite number"),
    ],
)
def test_invalid_layer_arguments_are_rejected(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        DyT(*arguments, **options)


def test_derf_refuses_a_shift_that_is_no_number():
    with pytest.raises(ValueError, match="shift0 = '1' is not a finite number"):
        Derf(4, 0.5, shift0="1")


def test_elementwise_affine_overrides_affine():
    assert DyT(4, elementwise_affine=False).weight is None
    assert DyT(4, affine=False, elementwise_affine=True).weight is not None


@pytest.mark.parametrize("alpha", ["learnable", "fixed"])
def test_every_tensor_has_the_dtype_and_device_of_the_layer(alpha):
    layer = Derf(4, alpha=alpha, dtype=torch.bfloat16, device="meta")
    tensors = layer.state_dict()
    assert set(tensors) == {"alpha", "shift", "weight", "bias"}
    assert {(t.dtype, t.device.type) for t in tensors.values()} == {(torch.bfloat16, "meta")}


@pytest.mark.parametrize("layer", [DyT(4), Derf(4), DyT(4, squash="hardtanh")], ids=repr)
def test_layers_refuse_integers(layer):
    with pytest.raises(ValueError) as error:
        layer(torch.ones(2, 4, dtype=torch.int64))
    assert str(error.value) == (
        f"{type(layer).__name__} takes real floating-point numbers, but its input has dtype"
        " torch.int64. Convert it first, as with x.float()."
    )


def test_errors_of_a_wrong_width_name_the_other_layout():
    for axis, sizes, expected, hint in (
        (
            -1,
            (2, 4, 5),
            "(…, 4)",
            "For channels at axis 1, as in NCHW, build the layer with channel_axis=1.",
        ),
        (
            1,
            (2, 5, 4),
            "(B, 4, …)",
            "For channels last, build a layer with channel_axis=-1, or nn.LayerNorm.",
        ),
    ):
        with pytest.raises(ValueError) as error:
            DyT(4, channel_axis=axis)(torch.ones(sizes))
        assert str(error.value) == (
            f"DyT of width 4 got an input of shape {sizes}, but expects {expected}. {hint}"
        )


@pytest.mark.parametrize(
    ("layer", "sizes", "message"),
    [
        (DyT(4), (2, 4, 5), r"of width 4 got an input of shape \(2, 4, 5\)"),
        (DyT(4, affine=False), (2, 1), r"got an input of shape \(2, 1\)"),
        (DyT(4, channel_axis=1), (2, 5, 4), r"but expects \(B, 4, …\)"),
        (DyT(4, channel_axis=1), (4,), r"got an input of shape \(4,\)"),
        (DyT((2, 3)), (5, 3, 2), r"but expects \(…, 2, 3\)"),
        (Derf(4), (2, 5), "Derf of width 4 got"),
    ],
)
def test_input_of_wrong_width_is_rejected(layer, sizes, message):
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(sizes))
