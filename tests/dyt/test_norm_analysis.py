"""Analysis of norm layers: recorded inputs and outputs, fitted curves, and summary numbers."""

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

import dyt
from dyt.norm_analysis import NormRecord, fit_curve, record_norms, shape_metrics


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
