"""The fit of one layer: known parameters are found, and sums are exact, weighted ones."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dyt import Derf, DyT, Norm, calibration_fit, convert
from dyt.calibrated_conversion import _target, set_fit
from dyt.calibration_fit import Fit, Form, Samples, _golden_section, _outliers, fit_layer
from dyt.calibration_rows import (
    CalibrationError,
    Collected,
    Target,
    collect_rows,
    position_sizes,
    rows_of,
    unrows,
)
from dyt.norm_detection import NormSpec, read_listed, read_norm
from dyt.norm_survey import Site

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 4, generator=GENERATOR) * 1.5
GAMMA, BETA = torch.tensor([0.5, 1.0, 2.0, -1.5]), torch.tensor([0.1, -0.2, 0.0, 0.3])
FORM = Form(squash="tanh", alpha=True, shift=False, affine="both", old_weight=GAMMA, alpha0=0.5)


def samples(target, x=X, weights=None, **changes):
    weights = torch.ones(len(x)) if weights is None else weights
    values = {"positions": None, "length": 1} | changes
    return Samples(x=x, target=target, weights=weights, **values)


def fitted(samples, form=FORM):
    return fit_layer(samples, form, lambda tensor: tensor)


@pytest.mark.parametrize("alpha", [0.05, 0.7, 3.0])
@pytest.mark.parametrize(("squash", "function"), [("tanh", torch.tanh), ("erf", torch.erf)])
def test_fit_finds_the_parameters_of_a_layer(alpha, squash, function):
    fit = fitted(samples(GAMMA * function(alpha * X) + BETA), replace(FORM, squash=squash))
    assert fit.alpha == pytest.approx(alpha, rel=0.05)
    assert fit.error < 0.02 and fit.scale is None and fit.shift is None
    x = torch.linspace(-2, 2, 9)[:, None].expand(9, 4)
    expected = GAMMA * function(alpha * x) + BETA
    torch.testing.assert_close(fit.output(x, squash), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shift", [-0.4, 0.4])
def test_fit_finds_the_shift_of_derf(shift):
    form = Form(squash="erf", alpha=True, shift=True, affine="none", old_weight=None, alpha0=0.5)
    fit = fitted(samples(torch.erf(0.7 * X + shift)), form)
    assert fit.alpha == pytest.approx(0.7, rel=0.2)  # one after the other, not both at once
    assert fit.shift == pytest.approx(shift, rel=0.2)
    assert (fit.weight, fit.bias) == (None, None) and fit.error < 0.08


def test_fit_statistics_are_weighted_means():
    weights = torch.rand(96, generator=GENERATOR) + 0.1
    target = GAMMA * torch.tanh(2.0 * X) + 0.2 * X.square()
    fit = fitted(samples(target, weights=weights))
    w = weights[:, None].double()
    total = w.sum() * 4
    difference = (fit.output(X, "tanh") - target).double()
    error = ((w * difference**2).sum() / (w * target.double() ** 2).sum()).sqrt()
    saturated = (w * ((fit.alpha * X).abs() > 2)).sum() / total
    assert 0.05 < saturated < 0.95
    assert fit.input_rms == pytest.approx(((w * X.double() ** 2).sum() / total).sqrt().item())
    assert fit.error == pytest.approx(error.item(), rel=1e-4)
    assert fit.saturated == pytest.approx(saturated.item(), rel=1e-5)


def test_saturated_share_includes_the_shift():
    form = Form(squash="erf", alpha=True, shift=True, affine="none", old_weight=None, alpha0=0.5)
    fit = fitted(samples(torch.erf(1.2 * X + 0.8)), form)
    share = ((fit.alpha * X + fit.shift).abs() > 2).double().mean().item()
    assert fit.saturated == pytest.approx(share)
    assert share != pytest.approx(((fit.alpha * X).abs() > 2).double().mean().item(), abs=0.01)


@pytest.mark.parametrize("affine", ["none", "scale", "weight", "both"])
def test_weight_of_two_equals_two_rows(affine):
    target = GAMMA * torch.tanh(0.7 * X) + BETA + 0.1 * X.square()
    form = replace(FORM, affine=affine)
    positions = torch.arange(96) % 8
    weights = torch.where(positions == 3, 2.0, 1.0)
    kept = torch.cat([torch.arange(96), (positions == 3).nonzero().flatten()])
    fixed = {"length": 8, "user_weights": True}
    weighted = fitted(samples(target, weights=weights, positions=positions, **fixed), form)
    doubled = fitted(
        samples(target[kept], x=X[kept], positions=positions[kept], **fixed),
        form,
    )
    for name in ("alpha", "input_rms", "saturated", "error"):
        assert getattr(weighted, name) == pytest.approx(getattr(doubled, name), rel=1e-4), name
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(weighted, name), getattr(doubled, name))


def test_scale_gives_the_rms_of_the_target_at_the_headroom():
    target = 3.0 * torch.sign(X)
    fit = fitted(samples(target), replace(FORM, affine="scale"))
    rms = X.square().mean().sqrt()
    assert fit.alpha == pytest.approx(0.125 / rms.item(), rel=1e-5)
    scale = 3.0 / torch.tanh(fit.alpha * X).square().mean().sqrt()
    assert fit.scale == pytest.approx(scale.item(), rel=1e-5)
    assert fit.weight.tolist() == [fit.scale] * 4 and fit.bias is None


@pytest.mark.parametrize("affine", ["weight", "both"])
def test_gamma_regression_has_four_more_positions_at_one_scale(affine):
    """As if four positions agreed with the norm's γ times one scale."""
    target = GAMMA * torch.tanh(0.7 * X) + BETA
    form = replace(FORM, affine=affine, alpha=False, old_weight=torch.tensor([1.0, 1.0, 2.0, -1]))
    fit = fitted(samples(target), form)
    t, y = torch.tanh(X).double(), target.double()
    if affine == "both":
        t, y = t - t.mean(0), y - y.mean(0)
    old = form.old_weight.double()
    tt, ty = (t * t).sum(0), (t * y).sum(0)
    scale = (old * ty).sum() / (old * old * tt).sum()
    prior = 4 * (tt / 96).mean()
    gamma = (ty + prior * scale * old) / (tt + prior)
    torch.testing.assert_close(fit.weight.double(), gamma, rtol=1e-5, atol=1e-6)
    if affine == "both":
        beta = target.double().mean(0) - gamma * torch.tanh(X).double().mean(0)
        torch.testing.assert_close(fit.bias.double(), beta, rtol=1e-5, atol=1e-6)
    else:
        assert fit.bias is None


def test_worst_positions_are_relative_errors_largest_first():
    positions = torch.arange(96) % 6
    target = torch.tanh(X)
    for position, factor in ((1, 1.5), (4, 2.0), (2, 1.1)):
        target[positions == position] *= factor
    form = Form(squash="tanh", alpha=False, shift=False, affine="none", old_weight=None, alpha0=1)
    fit = fitted(samples(target, positions=positions, length=6), form)
    assert [index for index, _ in fit.worst_positions] == [4, 1, 2]
    expected = [(factor - 1) / factor for factor in (2.0, 1.5, 1.1)]
    assert [error for _, error in fit.worst_positions] == pytest.approx(expected, rel=1e-4)
    short = samples(target, positions=positions, length=1)
    assert fitted(short, form).worst_positions == ()


def test_errors_of_positions_are_weighted():
    positions = torch.arange(96) // 48
    weights = torch.rand(96, generator=GENERATOR) + 0.1
    target = torch.tanh(X) + 0.3 * X.square()
    form = Form(squash="tanh", alpha=False, shift=False, affine="none", old_weight=None, alpha0=1)
    fit = fitted(samples(target, weights=weights, positions=positions, length=2), form)
    w, difference = weights[:, None].double(), (torch.tanh(X) - target).double()
    expected = {}
    for half in (0, 1):
        rows = positions == half
        squares = (w * difference**2)[rows].sum() / (w * target.double() ** 2)[rows].sum()
        expected[half] = squares.sqrt().item()
    assert dict(fit.worst_positions) == pytest.approx(expected, rel=1e-4)


def test_outlying_position_gets_the_weight_of_all_others():
    positions = torch.arange(96) % 8
    target = GAMMA * torch.tanh(0.7 * X) + BETA
    target = torch.where(positions[:, None] == 5, -target, target)
    found = fitted(samples(target, positions=positions, length=8))
    assert found.emphasized == (5,)
    same = fitted(samples(target, weights=torch.where(positions == 5, 7.0, 1.0)))
    assert found.alpha == pytest.approx(same.alpha, rel=1e-5)
    torch.testing.assert_close(found.weight, same.weight)


def test_outliers_of_earlier_layers_keep_their_emphasis_if_few():
    positions = torch.arange(96) % 8
    target = GAMMA * torch.tanh(0.7 * X) + BETA
    fixed = {"positions": positions, "length": 8}
    early = fitted(samples(target, **fixed, emphasized=(2, 6)))
    assert early.emphasized == (2, 6)
    weights = torch.where((positions == 2) | (positions == 6), 3.0, 1.0)  # 6 others for 2
    same = fitted(samples(target, weights=weights))
    torch.testing.assert_close(early.weight, same.weight)
    assert fitted(samples(target, **fixed)).emphasized == ()
    own = torch.where(positions[:, None] == 5, -target, target)
    assert fitted(samples(own, **fixed, emphasized=(2,))).emphasized == (2, 5)
    # Three of eight are more than a quarter.
    assert fitted(samples(own, **fixed, emphasized=(2, 6))).emphasized == (5,)
    assert fitted(samples(own, **fixed, user_weights=True)).emphasized == ()


def test_worst_positions_are_those_of_the_final_fit():
    positions = torch.arange(96) % 8
    target = GAMMA * torch.tanh(0.7 * X) + BETA
    target = torch.where(positions[:, None] == 5, -target, target)
    fit = fitted(samples(target, positions=positions, length=8))
    difference = (fit.output(X, "tanh") - target)[positions == 5]
    error = difference.norm() / target[positions == 5].norm()
    assert dict(fit.worst_positions).get(5, error) == pytest.approx(error.item(), rel=1e-4)
    assert len(fit.worst_positions) == 3
    two = fitted(samples(target, positions=positions % 2, length=2))
    assert len(two.worst_positions) == 2


@pytest.mark.parametrize("affine", ["none", "scale", "both"])
def test_error_of_a_norm_whose_output_is_zero(affine):
    """A layer that cannot give zeros has an error of 1, one that can has none."""
    form = replace(FORM, affine=affine, alpha=False)
    fit = fitted(samples(torch.zeros_like(X)), form)
    assert fit.error == (1.0 if affine == "none" else 0.0)
    zeros = fitted(samples(torch.zeros_like(X), x=torch.zeros_like(X)), form)
    assert zeros.error == 0.0
    assert affine == "none" or bool(zeros.weight.isfinite().all())
    if affine == "scale":
        assert zeros.scale == 1.0, "γ of a layer whose inputs are zeros stays 1"


def test_shift_is_fitted_at_the_alpha_of_the_headroom():
    form = replace(FORM, squash="erf", shift=True, affine="scale")
    fit = fitted(samples(torch.erf(0.1 * X + 0.3)), form)
    assert fit.alpha * fit.input_rms == pytest.approx(0.125) and fit.shift > 0.05


def test_line_searches_see_some_rows_with_their_weights(monkeypatch):
    monkeypatch.setattr(calibration_fit, "SEARCH_VALUES", 300)
    x = torch.arange(400.0).reshape(100, 4)
    whole = samples(x + 1, x=x, weights=x[:, 0] + 2, positions=torch.arange(100), length=100)
    part = calibration_fit._subset(whole)
    assert part.x.shape == (75, 4) and part.positions is None
    assert len(set(part.x[:, 0].tolist())) == 75
    assert torch.equal(part.target, part.x + 1) and torch.equal(part.weights, part.x[:, 0] + 2)
    again = calibration_fit._subset(whole)
    assert torch.equal(again.x, part.x)
    monkeypatch.setattr(calibration_fit, "SEARCH_VALUES", 8)
    assert calibration_fit._subset(whole).x.shape == (64, 4), "64 rows at least"
    small = samples(x[:64], x=x[:64])
    assert calibration_fit._subset(small) is small


@pytest.mark.parametrize(
    ("norm", "alpha0", "form"),
    [
        (Norm.dyt(0.25), None, ("tanh", True, False, 0.25)),
        (Norm.derf(0.25), 0.75, ("erf", True, True, 0.75)),
        (Norm.dyt(alpha="absent", squash="hardtanh"), None, ("hardtanh", False, False, 0.5)),
    ],
    ids=str,
)
def test_target_of_the_fit_follows_the_norm(norm, alpha0, form):
    module = nn.RMSNorm(4)
    nn.init.constant_(module.weight, 0.25)
    spec = replace(read_norm(module), offset=1.0)
    site = Site(("a.norm", "b.norm"), module, spec)
    target = _target(site, norm, alpha0, "weight")
    found = target.form
    assert (found.squash, found.alpha, found.shift, found.alpha0) == form
    assert found.old_weight.tolist() == [1.25] * 4, "Gemma's γ is 1 + weight"
    assert (target.path, target.module, target.spec) == ("a.norm", module, spec)
    assert _target(site, norm, alpha0, "scale").form.old_weight is None


ROWS = torch.arange(24.0).reshape(3, 2, 4)
"""Three inputs of two positions with four channels."""


def collected(x, affine="both", weights=None, budget=10**6, module=None):
    module = nn.LayerNorm(4) if module is None else module
    form = replace(FORM, affine=affine)
    target = Target(
        path="blocks.0.norm",
        module=module,
        spec=read_norm(module) or read_listed(module),
        form=form,
    )
    result = Collected()
    collect_rows(result, target, x, module(x).detach(), weights, budget)
    return result


@pytest.mark.parametrize(
    ("sizes", "budget", "rows"),
    [
        ((3, 2, 4), 24, [0, 1, 2, 3, 4, 5]),
        ((3, 2, 4), 16, [0, 1, 4, 5]),  # two whole inputs, the first and the last
        ((3, 2, 4), 12, [0, 1]),  # one whole input and no half
        ((3, 2, 4), 8, [0, 1]),
        ((3, 2, 4), 4, [0]),
        ((3, 2, 4), 1, [0]),
        ((2, 5, 4), 12, [0, 4, 9]),  # no input fits: rows from the first to the last
        ((8, 4), 12, [0, 3, 7]),
    ],
)
def test_collect_rows_keeps_whole_inputs_evenly_spaced(sizes, budget, rows):
    x = torch.arange(float(torch.Size(sizes).numel())).reshape(sizes)
    found = collected(x, budget=budget)
    length = sizes[1] if len(sizes) == 3 else 1
    assert torch.equal(found.x[0], x.reshape(-1, 4)[rows])
    torch.testing.assert_close(found.target[0], nn.LayerNorm(4)(x).reshape(-1, 4)[rows].detach())
    assert found.weights[0].tolist() == [1.0] * len(rows)
    assert found.positions[0].tolist() == [row % length for row in rows]
    assert (found.lengths, found.calls) == ({sizes[1:-1]}, 1)


def test_collect_rows_leaves_out_positions_without_weight():
    weights = torch.tensor([0.0, 2.0, 0.0, 0.5, 0.0, 1.0])
    x = ROWS.clone()
    x[:, 0] = float("nan")
    found = collected(x, weights=weights)
    assert torch.equal(found.x[0], ROWS[:, 1])
    assert (found.weights[0].tolist(), found.positions[0].tolist()) == ([2.0, 0.5, 1.0], [1, 1, 1])
    message = "^calibrate: the input or output of 'blocks.0.norm' is not finite. Check the data"
    with pytest.raises(CalibrationError, match=message):
        collected(x)


@pytest.mark.parametrize("affine", ["none", "scale", "weight", "both"])
def test_collect_rows_targets_have_gamma_only_if_it_is_fitted(affine):
    module = nn.LayerNorm(4)
    nn.init.constant_(module.weight, 3.0)
    nn.init.constant_(module.bias, 1.0)
    normalized = nn.functional.layer_norm(ROWS, (4,)).reshape(-1, 4)
    expected = 3 * normalized + 1 if affine in ("weight", "both") else normalized
    found = collected(ROWS, affine, module=module)
    torch.testing.assert_close(found.target[0], expected)


def test_collect_rows_normalizes_by_the_statistics_of_the_batch():
    """At initialization those of a BatchNorm mean nothing."""
    module = nn.BatchNorm1d(4, eps=0.5)
    x = torch.randn(6, 4, generator=GENERATOR)
    expected = nn.functional.batch_norm(x, None, None, training=True, eps=0.5)
    found = collected(x, "scale", module=module.eval())
    torch.testing.assert_close(found.target[0], expected)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.1] * 7 + [0.26], []),  # below four medians
        ([0.1] * 7 + [0.41], [7]),
        ([0.01] * 7 + [0.24], []),  # below the floor
        ([0.01] * 7 + [0.26], [7]),
        ([0.5, 0.01, 0.01, 0.01, 0.6, 0.01, 0.01, 0.01], [0, 4]),
        ([0.5, 0.01, 0.01, 0.7, 0.6, 0.01, 0.01, 0.01], []),  # more than a quarter
    ],
)
def test_outliers_are_few_and_far_above_the_median(errors, expected):
    assert _outliers(torch.tensor(errors)) == expected


@pytest.mark.parametrize("minimum", [-0.9, 0.123, 0.77])
def test_golden_section_is_exact_to_a_800th(minimum):
    found = _golden_section(lambda x: (x - minimum) ** 2, -1.0, 1.0)
    assert found == pytest.approx(minimum, abs=2 / 800)


@pytest.mark.parametrize("zeros", [True, False])
def test_alpha_of_zeros_is_the_norms(zeros):
    x = torch.zeros_like(X) if zeros else X
    form = replace(FORM, affine="none", alpha0=0.3)
    assert (fitted(samples(torch.tanh(x), x=x), form).alpha == 0.3) == zeros


@pytest.mark.parametrize(
    ("axis", "shape", "sizes", "row"),
    [(-1, (4,), (2, 3), 4), (-1, (3, 4), (2,), 12), (1, (3,), (2, 4), 3)],
)
def test_rows_of_have_all_channels_of_a_position(axis, shape, sizes, row):
    spec = NormSpec(shape=shape, channel_axis=axis, weight=None, bias=None)
    x = torch.arange(24.0).reshape(2, 3, 4)
    rows = rows_of(x, spec)
    assert rows.shape == (24 // row, row) and position_sizes(x, spec) == sizes
    expected = x[0, :, 0] if axis == 1 else x.flatten()[:row]
    assert torch.equal(rows[0], expected)
    assert torch.equal(unrows(rows, x, spec), x)


def test_set_fit_survives_a_reset():
    fit = Fit(alpha=0.2, shift=-0.3, weight=GAMMA, bias=BETA, input_rms=1, saturated=0, error=0)
    for layer in (DyT(4), Derf(4)):
        set_fit(layer, fit)
        assert torch.equal(layer.weight, GAMMA) and torch.equal(layer.bias, BETA)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(9)
        layer.reset_parameters()
        assert layer.alpha.item() == pytest.approx(0.2)
        if isinstance(layer, Derf):
            assert layer.shift.item() == pytest.approx(-0.3)


def test_poor_fit_is_reported_above_one_half():
    x = torch.randn(64, 2, 16, generator=torch.Generator().manual_seed(0))
    x = x * torch.logspace(-1, 1, 64)[:, None, None]
    with pytest.warns(UserWarning, match=r"0 \(0\.\d\d\) differ .* more than 0.5 of its output"):
        report = convert(nn.Sequential(nn.LayerNorm(16)), Norm.dyt(), calibrate=x)
    assert report[0].fit.error > 0.5
