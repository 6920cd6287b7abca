"""Tests that `ChannelsFirstLayerNorm` and `BatchNorm` compute the same as PyTorch's layers."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import nn

from dyt import BatchNorm, ChannelsFirstLayerNorm

SIZES = [(6, 4), (2, 4, 5), (2, 4, 5, 3), (2, 4, 2, 3, 2)]
TORCH_BN = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def randomize(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(0.5, 1.5)
    return layer


def run(layer, x):
    """Return the output and the gradients of the input and of the parameters."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return y, x.grad, *(p.grad for p in layer.parameters())


@pytest.mark.parametrize("sizes", SIZES)
def test_channels_first_layer_norm_equals_moved_layer_norm(sizes):
    layer = randomize(ChannelsFirstLayerNorm(4))
    x = 3 * torch.randn(sizes) + 1
    last = F.layer_norm(x.movedim(1, -1), (4,), layer.weight, layer.bias, 1e-5)
    torch.testing.assert_close(layer(x), last.movedim(-1, 1))
    assert layer(x).shape == x.shape


@pytest.mark.parametrize("affine", [True, False])
def test_channels_first_layer_norm_equals_timm_layer_norm_2d(affine):
    layer = randomize(ChannelsFirstLayerNorm(4, eps=1e-3, elementwise_affine=affine))
    timms = LayerNorm2d(4, eps=1e-3, affine=affine)
    timms.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 5, 3)
    for mine, expected in zip(run(layer, x), run(timms, x), strict=True):
        torch.testing.assert_close(mine, expected)


def with_equal_parameters(ours, theirs):
    theirs.load_state_dict(randomize(ours).state_dict(), strict=True)
    return ours, theirs


def assert_equivalent(ours, theirs, x, reshaped):
    """Compare outputs, gradients and running statistics in two training steps and an evaluation."""
    for scale in (1, 3):
        mine, expected = run(ours, scale * x + 1), run(theirs, reshaped(scale * x + 1))
        torch.testing.assert_close(reshaped(mine[0]), expected[0])
        torch.testing.assert_close(reshaped(mine[1]), expected[1])
        for a, b in zip(mine[2:], expected[2:], strict=True):
            torch.testing.assert_close(a, b)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    assert ours.num_batches_tracked.item() == 2
    before = copy.deepcopy(ours.eval().state_dict())
    torch.testing.assert_close(reshaped(ours(x)), theirs.eval()(reshaped(x)))
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_batch_norm_equals_torch_for_any_rank(sizes, affine):
    theirs = TORCH_BN[len(sizes)](4, affine=affine)
    assert_equivalent(
        *with_equal_parameters(BatchNorm(4, affine=affine), theirs), torch.randn(sizes), lambda x: x
    )


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("sizes", [(6, 4), (2, 3, 4), (2, 3, 5, 4)])
def test_channels_last_batch_norm_reduces_all_other_axes(sizes, affine):
    ours = BatchNorm(4, channel_axis=-1, affine=affine)
    theirs = nn.BatchNorm1d(4, affine=affine)
    assert_equivalent(
        *with_equal_parameters(ours, theirs), torch.randn(sizes), lambda x: x.reshape(-1, 4)
    )


def test_channels_last_batch_norm_of_transposed_view():
    layer, x = randomize(BatchNorm(4, channel_axis=-1)), torch.randn(2, 4, 5, 3)
    y = copy.deepcopy(layer)(x.permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(layer(x.permute(0, 2, 3, 1)), y)


def test_batch_norm_without_bias_or_with_other_constants():
    x = torch.randn(2, 4, 5)
    layer = randomize(BatchNorm(4, bias=False))
    expected = F.batch_norm(x, None, None, layer.weight, None, training=True)
    torch.testing.assert_close(layer(x), expected)
    assert "bias" not in layer.state_dict()
    layer.reset_parameters()
    assert layer.weight.tolist() == [1.0] * 4
    assert layer.num_batches_tracked == 0

    ours, theirs = BatchNorm(4, eps=0.1, momentum=None), nn.BatchNorm1d(4, eps=0.1, momentum=None)
    assert_equivalent(ours, theirs, x, lambda x: x)


LAYERS = {
    "LN": (lambda: ChannelsFirstLayerNorm(4), (2, 4, 5)),
    "BN first": (lambda: BatchNorm(4), (2, 4, 5)),
    "BN last": (lambda: BatchNorm(4, channel_axis=-1), (2, 5, 4)),
}
EACH = pytest.mark.parametrize(("make", "sizes"), LAYERS.values(), ids=LAYERS)


@EACH
def test_standard_norms_survive_deepcopy_pickle_and_state_dict(make, sizes):
    layer, x = randomize(make()), torch.randn(sizes)
    layer(x)  # updates the running statistics
    layer.eval()
    expected = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = make().eval()
    loaded.load_state_dict(layer.state_dict(), strict=True)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False), loaded):
        assert torch.equal(twin(x), expected)


@EACH
def test_standard_norms_in_bfloat16(make, sizes):
    x = torch.randn(sizes)
    expected = make()(x)
    y = make().to(torch.bfloat16)(x.to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.03, rtol=0.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(make()(x.bfloat16()).float(), expected, atol=0.03, rtol=0.03)


@EACH
def test_standard_norms_compile_as_one_graph(make, sizes):
    layer, x = make(), torch.randn(sizes)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(compiled._orig_mod.state_dict()[name], value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChannelsFirstLayerNorm((2, 3)), r"num_channels = \(2, 3\) is not a number of"),
        (lambda: ChannelsFirstLayerNorm(0), "num_channels = 0 is not a number of channels. Pass a"),
        (lambda: BatchNorm(True), "num_features = True is not a number of channels"),
        (lambda: BatchNorm("4"), "num_features = '4' is not a number of channels"),
        (lambda: BatchNorm(4, channel_axis=2), "channel_axis = 2 is not supported. Use -1"),
        (
            lambda: ChannelsFirstLayerNorm(4)(torch.ones(2, 3, 4)),
            r"ChannelsFirstLayerNorm of width 4 got an input of shape \(2, 3, 4\), but expects"
            r" \(B, 4, …\). For channels last, build a layer with channel_axis=-1, or nn.LayerNorm",
        ),
        (lambda: ChannelsFirstLayerNorm(4)(torch.ones(4)), r"got an input of shape \(4,\)"),
        (lambda: BatchNorm(4)(torch.ones(2, 3, 4)), r"BatchNorm of width 4 .* \(B, 4, …\)"),
        # 48 values, which could be reshaped to rows of four without an error.
        (
            lambda: BatchNorm(4, channel_axis=-1)(torch.ones(2, 4, 6)),
            r"of shape \(2, 4, 6\), but expects \(…, 4\). For channels at axis 1",
        ),
        (lambda: BatchNorm(4)(torch.ones(1, 4)), "Expected more than 1 value per channel"),
    ],
)
def test_standard_norm_errors_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_standard_norm_repr():
    assert repr(ChannelsFirstLayerNorm(4)).startswith("ChannelsFirstLayerNorm((4,), eps=1e-05")
    for options, affine, notes in (
        ({}, True, "channel_axis=1"),
        ({"channel_axis": -1, "bias": False}, True, "channel_axis=-1, bias=False"),
        ({"affine": False}, False, "channel_axis=1"),
    ):
        text = repr(BatchNorm(4, **options))
        assert text.startswith(f"BatchNorm(4, eps=1e-05, momentum=0.1, affine={affine}")
        assert text.endswith(f"track_running_stats=True, {notes})")
