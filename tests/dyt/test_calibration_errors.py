"""Warnings and errors of calibration: bad data, networks that cannot be calibrated, poor fits."""

import re

import pytest
import torch
from torch import nn

from dyt import Calibration, Norm, convert

from .test_calibration import X, net


def test_calibrate_warns_where_no_alpha_fits():
    x = torch.randn(64, 2, 16) * torch.logspace(-3, 3, 64)[:, None, None]
    with pytest.warns(UserWarning, match="very different scales"):
        convert(nn.Sequential(nn.Identity(), nn.LayerNorm(16)), calibrate=x)


def test_calibrate_names_layers_never_called():
    model = net()
    model.unused = nn.LayerNorm(16)
    with pytest.warns(UserWarning, match="never reached unused"):
        report = convert(model, Norm.dyt(0.7), calibrate=lambda m: m[2](m[1](m[0](X))))
    assert report[-1].fit is None
    assert model.unused.alpha.item() == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"without calling any of its norm layers \(1\.norm"):
        convert(net(), calibrate=lambda m: m[0](X))


def test_warnings_name_the_line_that_converts():
    x = torch.randn(64, 2, 16) * torch.logspace(-3, 3, 64)[:, None, None]
    network = nn.Sequential(nn.LayerNorm(16))
    network.unused = nn.LayerNorm(16)
    with pytest.warns(UserWarning) as warned:
        convert(network, Norm.dyt(0.75), calibrate=lambda model: model[0](x))
    with pytest.warns(UserWarning) as plain:
        convert(net(), copy_affine=True)
    assert [warning.filename for warning in (*warned, *plain)] == [__file__] * 3
    missed, poor = (str(warning.message) for warning in warned)
    assert missed == "calibrate: the data never reached unused; α there is 0.75."
    assert re.fullmatch(
        r"calibrate: 0 \([01]\.\d\d\) differ from the norm layer by more than 0\.5 of its output "
        r"\(root mean square\)\. Inputs of very different scales have no common α\.",
        poor,
    )


def test_calibrate_weights_of_a_wrong_shape_are_refused():
    calibrated = Calibration(X, weights=lambda path, x: torch.ones(5))
    with pytest.raises(ValueError) as error:
        convert(net(), calibrate=calibrated)
    assert str(error.value) == (
        "calibrate: weights returned a tensor of shape (5,) for '1.norm', but its positions have"
        " shape (32, 5)."
    )


BAD = {
    "shape": (X[..., :3], "does not run on the data"),
    "empty": ([], "got no batch"),
    "no rows": (X[:0], "got 0 positions"),
    "NaN": (torch.full_like(X, float("nan")), "^calibrate: the input or output of '1.norm' is not"),
    "integer": (3, "not a batch"),
    "device": (X.to("meta"), "calibrate"),
    "dtype": (X.double(), "does not run"),
    "too many": (iter([X] * 65), "more than 64"),
    "item": ([3], "^calibrate: a batch is int, not a tensor, mapping, tuple or callable.$"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_calibrate_refuses_bad_data_and_changes_nothing(data, message):
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        convert(model, calibrate=data)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_calibrate_gives_the_error_of_a_failing_network():
    def fail(model):
        raise KeyError("tokens")

    with pytest.raises(ValueError) as error:
        convert(net(), calibrate=fail)
    assert str(error.value) == (
        "calibrate: Sequential does not run on the data: KeyError: 'tokens'. Pass a batch of the"
        " shape, dtype and device that the network takes."
    )


def test_calibrate_refuses_norms_without_alpha():
    for norm in (Norm.own(), Norm.layer_norm(), Norm.dyt(alpha="absent")):
        with pytest.raises(ValueError, match="calibrate"):
            convert(net(), norm, calibrate=X)


def test_calibrate_refuses_compiled_and_inference_mode():
    with pytest.raises(ValueError, match="not compiled"):
        convert(torch.compile(net()), calibrate=X)
    compiled = net()
    compiled[1].compile(backend="eager")
    with pytest.raises(ValueError, match="not compiled"):
        convert(compiled, calibrate=X)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        convert(net(), calibrate=X)
    with pytest.raises(ValueError, match="meta"):
        convert(net().to("meta"), calibrate=X)


def test_calibrate_refuses_shared_gamma():
    model = net()
    model[2].norm.weight = model[1].norm.weight
    with pytest.raises(ValueError, match="share"):
        convert(model, copy_affine=True, calibrate=X)
    convert(model, calibrate=X)
    model = net()
    model[2].norm.bias = model[1].norm.bias
    with pytest.raises(ValueError, match=r"some norm layers share them. Untie them first"):
        convert(model, copy_affine=True, calibrate=X)
