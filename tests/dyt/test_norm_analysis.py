"""Analysis of norm layers: recorded inputs and outputs, fitted curves, and summary numbers."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

import dyt
from dyt.norm_analysis import (
    CurveFit,
    NormRecord,
    fit_curve,
    record_norms,
    shape_metrics,
    to_arrays,
)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 8)
        self.last = nn.RMSNorm(8)

    def forward(self, x):
        return self.last(self.linear(self.first(x)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Network()
    for norm in (network.first, network.last):
        nn.init.uniform_(norm.weight, 2.0, 3.0)
    nn.init.uniform_(network.first.bias, -1.0, 1.0)
    return network


def test_record_norms_leaves_out_the_affine_part(network):
    x = torch.randn(2, 5, 8)
    records = record_norms(network, lambda: network(x), positions=100)
    assert list(records) == ["first", "last"]
    torch.testing.assert_close(records["first"].x, x.reshape(10, 8))
    torch.testing.assert_close(records["first"].y, F.layer_norm(x, (8,)).reshape(10, 8))
    hidden = network.linear(network.first(x)).detach()
    torch.testing.assert_close(records["last"].y, F.rms_norm(hidden, (8,)).reshape(10, 8))
    assert records["last"].input_std == pytest.approx(hidden.std().item())
    assert records["first"].alpha is None
    assert not network.first._forward_pre_hooks


def test_record_norms_of_dyt_has_alpha_and_squashed_inputs(network):
    dyt.convert(network, dyt.Norm.dyt(alpha0=0.7))
    nn.init.uniform_(network.first.weight, 2.0, 3.0)
    x = torch.randn(3, 8)
    record = record_norms(network, lambda: network(x), paths=["first"])["first"]
    assert record.alpha == pytest.approx(0.7)
    torch.testing.assert_close(record.y, torch.tanh(0.7 * x))


def test_record_norms_of_derf_has_its_shift_and_axis():
    network = nn.Sequential(dyt.Derf(4, alpha0=0.7, shift0=0.3, channel_axis=1))
    x = torch.randn(2, 4, 3, 5)
    record = record_norms(network, lambda: network(x), positions=30)["0"]
    torch.testing.assert_close(record.x, x.movedim(1, -1).reshape(30, 4))
    torch.testing.assert_close(record.y, torch.erf(0.7 * record.x + 0.3))


def test_record_norms_of_a_failing_network_leaves_no_hooks(network):
    with pytest.raises(RuntimeError):
        record_norms(network, lambda: network(torch.randn(2, 3)))
    assert not network.first._forward_pre_hooks and not network.last._forward_pre_hooks


def test_record_norms_keeps_rows_of_channels_at_axis_one():
    network = nn.Sequential(dyt.ChannelsFirstLayerNorm(4))
    x = torch.randn(2, 4, 3, 3)
    record = record_norms(network, lambda: network(x), positions=18)["0"]
    torch.testing.assert_close(record.x, x.movedim(1, -1).reshape(18, 4))


def test_record_norms_chooses_positions_by_seed(network):
    x = torch.randn(1, 50, 8)
    chosen = [
        record_norms(network, lambda: network(x), positions=5, seed=seed)["first"].x
        for seed in (1, 1, 2)
    ]
    assert chosen[0].shape == (5, 8)
    assert chosen[0].equal(chosen[1]) and not chosen[0].equal(chosen[2])


def test_record_norms_has_the_first_call_and_its_input_std(network):
    """Rows keep their order, and the standard deviation is that of the rows left out, too."""
    first, second = torch.randn(1, 50, 8), torch.randn(1, 50, 8)

    def forward():
        network.first(input=first)
        network.first(second)

    record = record_norms(network, forward, positions=5)["first"]
    indices = [(first[0] == row).all(1).nonzero().item() for row in record.x]
    assert indices == sorted(indices) and len(set(indices)) == 5
    assert record.input_std == pytest.approx(first.std().item())
    every = record_norms(network, forward, positions=50)["first"]
    assert torch.equal(every.x, first[0])


def test_record_norms_leaves_out_norms_by_class_alone():
    class Gelu(nn.LayerNorm):
        def forward(self, x):
            return F.gelu(super().forward(x))

    network = nn.Sequential(Gelu(8), nn.LayerNorm(8))
    assert list(record_norms(network, lambda: network(torch.randn(2, 8)))) == ["1"]


def test_record_norms_refuses_networks_without_norm_layers(network):
    with pytest.raises(ValueError, match="Linear has no norm layer"):
        record_norms(nn.Linear(2, 2), lambda: None)
    with pytest.raises(ValueError, match="Network has no norm layer at linear"):
        record_norms(network, lambda: None, paths=["linear"])


def test_fit_curve_finds_tanh():
    x = torch.linspace(-4, 4, 1001)
    fit = fit_curve(x, 3 * torch.tanh(0.8 * x) + 0.5)
    assert fit.alpha == pytest.approx(0.8, rel=0.03)
    assert fit.scale == pytest.approx(3, rel=0.03)
    assert fit.tanh_offset == pytest.approx(0.5, abs=1e-6)
    assert fit.tanh_error < 0.01 < fit.line_error
    assert fit.gain > 0.99
    assert fit.linear_share == pytest.approx(0.5 / (fit.alpha * 4), abs=0.01)


def test_fit_curve_of_a_line_has_no_gain():
    x = torch.linspace(-1, 1, 101)
    fit = fit_curve(x, 2 * x - 1 + 0.3 * torch.sin(40 * x))
    assert (fit.slope, fit.line_offset) == pytest.approx((2, -1), rel=0.02)
    assert abs(fit.gain) < 0.01 and fit.linear_share == 1.0
    assert fit_curve(torch.zeros(3), torch.zeros(3)).gain == 0.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("alpha", [0.05, 20.0])
def test_fit_curve_covers_lines_and_steps_of_any_scale(scale, alpha):
    x = torch.linspace(-1, 1, 201)
    fit = fit_curve(scale * x, torch.tanh(alpha * x))
    assert fit.alpha * scale == pytest.approx(alpha, rel=0.1)
    share = 1.0 if alpha < 0.5 else 0.5 / alpha
    assert fit.linear_share == pytest.approx(share, abs=0.01)


def test_fit_curve_of_constants():
    """A constant input explains nothing of outputs that vary, and all of a constant output."""
    varied = fit_curve(torch.full((4,), 2.0), torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert (varied.slope, varied.line_offset, varied.line_error) == (0.0, 1.5, 1.0)
    assert (varied.scale, varied.tanh_offset, varied.tanh_error) == (0.0, 1.5, 1.0)
    same = fit_curve(torch.tensor([0.0, 1.0, 2.0]), torch.full((3,), 4.0))
    assert (same.slope, same.line_offset, same.line_error) == (0.0, 4.0, 0.0)
    zeros = fit_curve(torch.zeros(3), torch.ones(3))
    assert zeros.line_offset == 1.0 and zeros.linear_share == 1.0 and zeros.alpha > 0


def test_to_arrays_has_every_layer_and_its_fit():
    x, y = torch.tensor([[-1.0, 2.0], [3.0, 4.0]]), torch.tensor([[-0.5, 0.5], [1.0, 1.5]])
    records = {
        "a.norm": NormRecord(x=x, y=y, input_std=2.5, alpha=None),
        "b.norm": NormRecord(x=2 * x, y=y, input_std=5.0, alpha=0.75),
    }
    arrays = to_arrays(records)
    assert list(arrays) == [
        "path", "alpha", "input_std", "fit", "fit_columns", "x0", "y0", "x1", "y1",
    ]  # fmt: skip
    assert arrays["path"].tolist() == ["a.norm", "b.norm"]
    assert math.isnan(arrays["alpha"][0]) and arrays["alpha"][1] == 0.75
    assert arrays["input_std"].tolist() == [2.5, 5.0]
    assert arrays["fit_columns"].tolist() == [
        "slope", "line_offset", "line_error",
        "scale", "alpha", "tanh_offset", "tanh_error", "linear_share",
    ]  # fmt: skip
    assert arrays["fit"].tolist() == [list(astuple(fit_curve(n * x, y))) for n in (1, 2)]
    for name, expected in (("x0", x), ("y0", y), ("x1", 2 * x), ("y1", y)):
        assert arrays[name].dtype == np.float16 and arrays[name].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("gains", "early", "deep"),
    [
        ([0.2], 0.2, 0.2),
        ([0.2, 0.6], 0.2, 0.6),
        ([0.1, 0.3, 0.5, 0.6], 0.1, 0.6),
        ([0.1, 0.3, 0.9, 0.9, 0.9, 0.9, 0.6, 0.8], 0.2, 0.7),
    ],
)
def test_shape_metrics_are_means_of_the_first_and_last_third(monkeypatch, gains, early, deep):
    """A gain g is a tanh error of √(1 - g), for a line error of 1; the share is in percent."""
    fits = iter(
        [
            CurveFit(
                slope=0, line_offset=0, line_error=1.0, scale=0, alpha=0, tanh_offset=0,
                tanh_error=math.sqrt(1 - gain), linear_share=0.25,
            )
            for gain in gains
        ]
    )  # fmt: skip
    monkeypatch.setattr("dyt.norm_analysis.fit_curve", lambda x, y: next(fits))
    record = NormRecord(x=torch.ones(1), y=torch.ones(1), input_std=1.0, alpha=None)
    metrics = shape_metrics({str(i): record for i in range(len(gains))})
    assert metrics == pytest.approx(
        {
            "gain_early": early,
            "gain_deep": deep,
            "gain_difference": deep - early,
            "linear_share": 25.0,
        }
    )


@pytest.mark.parametrize(
    ("alphas", "correlation"),
    [([1.0, 2.0], None), ([1.0, 2.0, None], None), ([2.0, 1.0, 3.0], 0.5), ([1.0] * 3, 0.0)],
)
def test_shape_metrics_correlate_three_layers_or_more(alphas, correlation):
    x = torch.randn(4, 3)
    records = {
        str(i): NormRecord(x=x, y=x, input_std=1 / (i + 1), alpha=alpha)
        for i, alpha in enumerate(alphas)
    }
    found = shape_metrics(records).get("alpha_correlation")
    assert found == (correlation if correlation is None else pytest.approx(correlation))


def test_shape_metrics_tell_early_from_deep_layers():
    x = torch.linspace(-3, 3, 60).reshape(6, 10)
    curves = [x, x, x, torch.tanh(x), torch.tanh(2 * x), torch.tanh(3 * x)]
    records = {
        str(i): NormRecord(x=x, y=y, input_std=1.0, alpha=None) for i, y in enumerate(curves)
    }
    metrics = shape_metrics(records)
    assert metrics["gain_early"] < 0.01 and metrics["gain_deep"] > 0.9
    assert metrics["gain_difference"] == metrics["gain_deep"] - metrics["gain_early"]
    assert "alpha_correlation" not in metrics


def test_shape_metrics_correlate_alpha_with_inverse_std():
    x = torch.randn(4, 3)
    alphas, stds = [0.5, 1.0, 0.8, 0.8, 2.0], [2.0, 1.0, 3.0, 0.7, 0.5]
    records = {
        str(i): NormRecord(x=x, y=x, input_std=std, alpha=alpha)
        for i, (alpha, std) in enumerate(zip(alphas, stds, strict=True))
    }
    expected = stats.spearmanr(alphas, [1 / std for std in stds]).statistic
    assert shape_metrics(records)["alpha_correlation"] == pytest.approx(expected)
