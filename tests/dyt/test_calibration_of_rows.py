"""Tests of the fit of one DyT layer to given rows of inputs and outputs."""

import pytest
import torch
from torch import nn

from dyt import BatchNorm, calibration_fit, convert


def fit_rows(x, target, affine="both", shift=False, **samples):
    """Fit a DyT layer to rows of inputs (N, C) and outputs."""
    form = calibration_fit.Form(
        squash="tanh", alpha=True, shift=shift, affine=affine, old_weight=None, alpha0=0.5
    )
    samples = {"weights": torch.ones(len(x)), "positions": None, "length": 1, **samples}
    rows = calibration_fit.Samples(x=x, target=target, **samples)
    return calibration_fit.fit_layer(rows, form, lambda tensor: tensor)


def test_fit_reports_the_share_of_saturated_inputs():
    x = torch.cat([torch.full((30, 4), 0.01), torch.full((10, 4), 10.0)])
    fit = fit_rows(x, torch.tanh(x), affine="none")
    assert fit.alpha == pytest.approx(1.0, rel=0.02)
    assert fit.saturated == 0.25


def test_fit_counts_saturated_inputs_with_their_shift():
    x = torch.linspace(-2.5, 2.5, 400)[:, None]
    fit = fit_rows(x, torch.tanh(x + 0.8), affine="none", shift=True)
    assert fit.shift > 0.3
    shares = [((fit.alpha * x + shift).abs() > 2).float().mean() for shift in (fit.shift, 0.0)]
    assert fit.saturated == pytest.approx(shares[0]) and shares[0] > 2 * shares[1]


def test_fit_finds_alpha_next_to_one_huge_position():
    x = torch.randn(64, 16)
    x[0] *= 1000
    fit = fit_rows(x, torch.tanh(x), affine="none")
    assert fit.input_rms > 50 and fit.alpha == pytest.approx(1.0, rel=0.02)


def test_fit_follows_the_data_of_a_channel_with_enough_rows():
    """γ of a channel is drawn to the common scale as if by four rows, here of 128."""
    x = torch.randn(128, 2)
    fit = fit_rows(x, torch.tanh(x) * torch.tensor([1.0, 3.0]))
    assert fit.weight.tolist() == pytest.approx([1.0, 3.0], rel=0.06)
    few = fit_rows(x[:4], torch.tanh(x[:4]) * torch.tensor([1.0, 3.0]))
    assert few.weight[1] / few.weight[0] < 2.9


def test_fit_weights_an_outlying_position_like_all_others_together():
    positions = torch.arange(8).repeat(16)
    x = torch.randn(128, 2)
    target = torch.where(positions == 3, -0.2, 1.0)[:, None] * torch.tanh(x)
    fit = fit_rows(x, target, positions=positions, length=8)
    assert fit.emphasized == (3,)
    weights = torch.where(positions == 3, 7.0, 1.0)
    expected = fit_rows(x, target, weights=weights, user_weights=True)
    assert fit.alpha == pytest.approx(expected.alpha)
    torch.testing.assert_close(fit.weight, expected.weight)
    torch.testing.assert_close(fit.bias, expected.bias)


def test_worst_positions_have_the_relative_error_of_their_outputs():
    positions = torch.arange(8).repeat(16)
    x = torch.randn(128, 2)
    target = torch.where(positions == 3, 1.5, 1.0)[:, None] * torch.tanh(x)
    fit = fit_rows(x, target, affine="none", positions=positions, length=8)
    position, error = fit.worst_positions[0]
    rows = positions == 3
    difference = fit.output(x, "tanh")[rows] - target[rows]
    assert position == 3 and error == pytest.approx(
        (difference.norm() / target[rows].norm()).item(), rel=1e-4
    )


def test_calibrate_takes_batch_norm_per_channel_at_either_axis():
    x = torch.randn(16, 5, 8) * torch.logspace(-0.3, 0.3, 8)
    fits = [
        convert(nn.Sequential(nn.Identity(), norm), also=BatchNorm, calibrate=data)[0].fit
        for norm, data in (
            (BatchNorm(8), x.movedim(-1, 1)),
            (BatchNorm(8, channel_axis=-1), x),
        )
    ]
    assert fits[1].error == pytest.approx(fits[0].error, rel=1e-3)
    assert fits[1].scale == pytest.approx(fits[0].scale, rel=1e-3)
