"""Tests of calibration where positions differ: class tokens, weights, padding, last tokens."""

import pytest
import torch
from torch import nn

from dyt import Calibration, convert

from .test_calibration import net


class ClassToken(nn.Module):
    """A norm of patches of scale 1 and a class token of scale 1/30, of which alone it returns."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([x[:, :1] / 30, x[:, 1:]], 1)
        return self.head(self.norm(x))


def test_calibrate_emphasizes_an_outlying_position():
    x = torch.randn(16, 20, 8, generator=torch.Generator().manual_seed(0))
    default, plain = (ClassToken() for _ in range(2))
    fit = convert(default, copy_affine=True, calibrate=x)[0].fit
    ones = Calibration(x, weights=torch.ones(20))
    other = convert(plain, copy_affine=True, calibrate=ones)[0].fit
    assert fit.emphasized == (0,)
    assert other.emphasized == ()
    assert other.worst_positions[0][0] == 0
    assert dict(fit.worst_positions).get(0, 0) < other.worst_positions[0][1]


class LastTokens(nn.Module):
    """Two norms of which the second is read at position 0 alone, and an unread third one."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        h = torch.cat([x[:, :1] / 30, x[:, 1:]], 1)
        h = h + self.linear(self.norms[0](h).mean(1, keepdim=True))
        self.norms[2](h)
        return self.norms[1](h)[:, 0]


@pytest.mark.parametrize("data", ["tensor", "batches", "callable", "no gradients"])
def test_calibrate_from_scratch_ignores_positions_without_influence(data):
    x, model = torch.randn(16, 20, 8), LastTokens()
    forms = {
        "tensor": x,
        "batches": [x[:8], x[8:]],
        "callable": lambda m: {"output": [m(x)]},
        "no gradients": lambda m: m(x).argmax(1),
    }
    inputs = []
    hook = model.norms[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    fits = [r.fit for r in convert(model, calibrate=forms[data], dry_run=True)]
    hook.remove()
    first = torch.cat([h[:, 0] for h in inputs[-2:]]).square().mean().sqrt().item()
    whole = torch.cat(inputs[-2:]).square().mean().sqrt().item()
    expected = whole if data == "no gradients" else first
    assert fits[1].input_rms == pytest.approx(expected, rel=0.02)
    assert fits[0].input_rms == pytest.approx(1, rel=0.1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_calibrate_weights_select_positions():
    model, x = ClassToken(), torch.randn(16, 20, 8)
    only_first = torch.zeros(20)
    only_first[0] = 1
    fit = convert(model, calibrate=Calibration(x, weights=only_first))[0].fit
    assert fit.input_rms == pytest.approx(x[:, 0].square().mean().sqrt().item() / 30, rel=1e-5)
    function = Calibration(x, weights=lambda path, y: only_first.expand(16, 20))
    assert convert(ClassToken(), calibrate=function)[0].fit.alpha == fit.alpha


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x, attention_mask):
        return self.norm(x)


def test_calibrate_ignores_padding():
    x = torch.randn(4, 6, 8)
    x[:, 3:] = float("nan")
    mask = torch.tensor([1, 1, 1, 0, 0, 0]).expand(4, 6)
    fit = convert(Masked(), calibrate={"x": x, "attention_mask": mask})[0].fit
    assert fit.input_rms == pytest.approx(x[:, :3].square().mean().sqrt().item(), rel=1e-5)


class ReadsTwo(Masked):
    """Reads the first two positions alone."""

    def forward(self, x, attention_mask):
        return self.norm(x)[:, :2]


def test_calibrate_ignores_padding_and_what_is_not_read():
    x = torch.randn(4, 6, 8)
    mask = torch.tensor([0, 1, 1, 1, 1, 0]).expand(4, 6)
    fit = convert(ReadsTwo(), calibrate={"x": x, "attention_mask": mask})[0].fit
    assert fit.input_rms == pytest.approx(x[:, 1].square().mean().sqrt().item(), rel=1e-5)


class ThreeNorms(nn.Module):
    """The first norm has a class token of scale 1/30; the second one's inputs are all alike."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))

    def forward(self, x):
        x = torch.cat([x[:, :1] / 30, x[:, 1:]], 1)
        return self.norms[2](self.norms[1](self.norms[0](x)).mean(1))


def test_calibrate_emphasizes_a_position_in_later_layers_too():
    x = torch.randn(16, 20, 8, generator=torch.Generator().manual_seed(0))
    data = Calibration(x, inputs="original")
    with pytest.warns(UserWarning, match=r"norms.0 \(0.57\) differ"):
        report = convert(ThreeNorms(), copy_affine=True, calibrate=data)
    assert [entry.fit.emphasized for entry in report] == [(0,), (0,), ()]


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_calibrate_refuses_invalid_weights(value):
    weights = torch.ones(20)
    weights[3] = value
    with pytest.raises(ValueError, match="not all finite and 0 or more"):
        convert(net(), calibrate=Calibration(torch.randn(16, 20, 8), weights=weights))
