"""Tests of calibration: the fit of each layer, the runs of the network, and bad data."""

import copy
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import dyt.calibration as calibration
import dyt.calibration_fit as calibration_fit
from dyt import Calibration, ChannelsFirstLayerNorm, Norm, convert


class Block(nn.Module):
    def __init__(self, width, norm=nn.LayerNorm):
        super().__init__()
        self.norm = norm(width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x):
        return x + self.mlp(self.norm(x))


def net(width=16, scale=0.3, norm=nn.LayerNorm):
    """Two blocks whose first input has the given scale."""
    torch.manual_seed(0)
    stem = nn.Linear(8, width)
    nn.init.normal_(stem.weight, std=scale / 8**0.5)
    return nn.Sequential(stem, Block(width, norm=norm), Block(width, norm=norm))


def trained(norm=nn.LayerNorm):
    """A network whose γ and β are not 1 and 0."""
    model = net(norm=norm)
    for name, p in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(p, 0.5, 1.5)
    return model


X = torch.randn(32, 5, 8, generator=torch.Generator().manual_seed(1))


def relative_error(model, reference):
    with torch.no_grad():
        return ((model(X) - reference).norm() / reference.norm()).item()


def reference_and_model(build=trained):
    model = build()
    return model(X).detach(), model


@pytest.mark.parametrize("scale", [0.05, 0.3, 5.0])
def test_calibrate_from_scratch_gives_the_rms_of_the_norm_without_saturation(scale):
    model = net(scale=scale)
    report = convert(model, calibrate=X)
    first, layer = report[0].fit, model[1].norm
    assert report[0].alpha0 == first.alpha == pytest.approx(layer.alpha.item())
    assert first.alpha * first.input_rms == pytest.approx(0.125)
    assert first.error < 0.45
    assert layer.weight.tolist() == pytest.approx([first.scale] * 16)
    assert layer.bias.tolist() == [0.0] * 16
    outputs = layer(model[0](X))
    assert outputs.square().mean().sqrt().item() == pytest.approx(1, rel=1e-3)
    assert f"{first.scale:.3g}" in str(report)


@pytest.mark.parametrize("scale", [0.05, 0.3, 5.0])
def test_calibrate_with_gamma_one_fits_the_scale_of_inputs(scale):
    model = net(scale=scale)
    report = convert(model, calibrate=Calibration(X, gamma="one"))
    first = report[0].fit
    assert report[0].alpha0 == first.alpha == pytest.approx(model[1].norm.alpha.item())
    assert 0.4 < first.alpha * first.input_rms < 2
    assert first.error < 0.45
    assert model[1].norm.weight.tolist() == [1.0] * 16
    assert model[1].norm.bias.tolist() == [0.0] * 16


def test_calibrate_with_gamma_one_is_the_least_squares_alpha():
    model = net()
    x = model[0](X).detach()
    target = nn.functional.layer_norm(x, (16,))
    alpha = convert(model, calibrate=Calibration(X, gamma="one"))[0].fit.alpha
    losses = [
        (torch.tanh(a * x) - target).square().sum() for a in (0.98 * alpha, alpha, alpha / 0.98)
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_calibrate_from_scratch_without_gamma_fits_alpha():
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16, elementwise_affine=False))
    fit = convert(model, calibrate=X)[0].fit
    assert fit.scale is None
    assert 0.4 < fit.alpha * fit.input_rms < 2
    tied = net()
    tied[2].norm.weight = tied[1].norm.weight
    assert [r.fit.scale for r in convert(tied, calibrate=X)] == [None, None]
    with pytest.raises(ValueError, match=r"gamma = 'two' is unknown. Use one of 'scale', 'one'"):
        Calibration(X, gamma="two")
    with pytest.raises(
        ValueError, match=r"inputs = 'all' is unknown. Use one of 'sequential', 'or"
    ):
        Calibration(X, inputs="all")


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("to", [Norm.dyt(), Norm.derf(), Norm.dyt(squash="hardtanh")])
def test_calibrate_with_copy_affine_preserves_outputs(norm, to):
    reference, model = reference_and_model(lambda: trained(norm))
    plain = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="calibrate=batch"):
        convert(plain, to, copy_affine=True)
    convert(model, to, copy_affine=True, calibrate=X)
    assert relative_error(model, reference) < 0.25
    assert relative_error(model, reference) < 0.6 * relative_error(plain, reference)


def test_calibrate_fits_shift_of_derf():
    model = nn.Sequential(nn.Identity(), nn.LayerNorm(16, elementwise_affine=False))
    fit = convert(model, Norm.derf(), calibrate=torch.randn(64, 16) + 0.5)[0].fit
    assert fit.shift < -0.1
    assert model[1].shift.item() == pytest.approx(fit.shift)


def test_calibrate_sequential_uses_replaced_activations():
    original, sequential = trained(), trained()
    options = {"copy_affine": True}
    first = convert(original, calibrate=Calibration(X, inputs="original"), **options)
    second = convert(sequential, calibrate=X, **options)
    assert first[0].fit.alpha == second[0].fit.alpha
    assert first[1].fit.alpha != second[1].fit.alpha
    # The inputs of the second norm are those that the converted network gives it.
    norm_inputs = []
    sequential[2].norm.register_forward_pre_hook(lambda _, args: norm_inputs.append(args[0]))
    sequential(X)
    rms = norm_inputs[0].square().mean().sqrt().item()
    assert second[1].fit.input_rms == pytest.approx(rms, rel=1e-4)


def test_calibrate_batches_equal_one_batch():
    one, several = trained(), trained()
    a = convert(one, copy_affine=True, calibrate=X)
    b = convert(several, copy_affine=True, calibrate=iter(X.split(8)))
    for first, second in zip(a, b, strict=True):
        assert first.fit.alpha == pytest.approx(second.fit.alpha, rel=1e-3)
        torch.testing.assert_close(first.fit.weight, second.fit.weight, rtol=1e-3, atol=1e-4)


def test_calibrate_is_deterministic_and_draws_no_random_numbers():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a, b = (convert(nn.Sequential(net(), nn.Dropout()), calibrate=X) for _ in range(2))
    torch.set_rng_state(state)
    model = nn.Sequential(net(), nn.Dropout())
    before = torch.get_rng_state()
    convert(model, calibrate=lambda m: m(X + torch.randn(())))
    assert torch.equal(before, torch.get_rng_state())
    assert [r.fit.alpha for r in a] == [r.fit.alpha for r in b]
    assert model.training


class Shared(nn.Module):
    """One norm at two places, called twice in each forward."""

    def __init__(self):
        super().__init__()
        self.a = nn.LayerNorm(8)
        self.b = self.a
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.b(10 * self.linear(self.a(x)))


def test_calibrate_shared_layer_fits_all_calls():
    model = Shared()
    report = convert(model, calibrate=X)
    assert report.paths == ("a", "b")
    assert model.a is model.b
    # α suits neither the first inputs alone (rms 1) nor the second (rms 5).
    assert 1.5 < report[0].fit.input_rms < 4.5


def test_calibrate_channels_first_and_kernel_of_other_dtypes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ChannelsFirstLayerNorm(8)).bfloat16()
    x = torch.randn(4, 3, 6, 6).bfloat16()
    reference = model(x).detach()
    report = convert(model, copy_affine=True, calibrate=x)
    assert model[1].channel_axis == 1
    assert model[1].alpha.dtype == torch.bfloat16
    assert (model(x) - reference).norm() / reference.norm() < 1.1 * report[0].fit.error + 0.02


def test_calibrate_batch_norm_without_statistics():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    before = model[1].running_mean.clone()
    report = convert(model, also=nn.BatchNorm2d, calibrate=5 * torch.randn(8, 3, 4, 4))
    assert report[0].fit.error < 0.6
    assert torch.equal(before, torch.zeros(8))


def test_calibrate_one_token_fits_alpha_but_not_gamma():
    assert convert(net(), calibrate=X[:1, :1])[0].fit.error < 0.6
    with pytest.raises(ValueError, match=r"got 1 positions .* at least 8"):
        convert(net(), copy_affine=True, calibrate=X[:1, :1])
    convert(net(), copy_affine=True, calibrate=X[:2, :4])


def test_calibrate_report_prints_fit_and_resets_to_fitted_alpha():
    model = net()
    report = convert(model, calibrate=X)
    assert "input rms" in str(report)
    assert f"{report[0].fit.error:.3f}" in str(report)
    model[1].norm.alpha.data.fill_(9)
    model[1].norm.reset_parameters()
    assert model[1].norm.alpha.item() == pytest.approx(report[0].fit.alpha)


def test_calibrate_sums_over_processes(monkeypatch):
    """Two threads stand for two processes with half of the data each."""
    barrier, parts = threading.Barrier(2, timeout=30), {}

    def make_reduce(rank):
        def reduce(tensor):
            parts[rank] = tensor
            barrier.wait()
            total = parts[0] + parts[1]
            barrier.wait()
            return total

        return reduce

    monkeypatch.setattr(calibration, "_make_reduce", make_reduce)

    def run(rank):
        data = Calibration(X[16 * rank : 16 * rank + 16], group=rank)
        return convert(trained(), copy_affine=True, calibrate=data)

    models = [trained(), trained()]
    monkeypatch.setitem(globals(), "trained", lambda: models.pop())
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    monkeypatch.undo()
    whole = convert(trained(), copy_affine=True, calibrate=X)
    for a, b, c in zip(first, second, whole, strict=True):
        assert a.fit.alpha == b.fit.alpha == pytest.approx(c.fit.alpha, rel=1e-3)
        assert torch.equal(a.fit.weight, b.fit.weight)
        torch.testing.assert_close(a.fit.weight, c.fit.weight, rtol=1e-3, atol=1e-4)


def test_calibrate_runs_in_evaluation_mode_without_gradients():
    model, runs = net(), []
    model[1].eval()

    def run(model):
        runs.append(({module.training for module in model.modules()}, torch.is_grad_enabled()))
        return model(X)

    convert(model, calibrate=Calibration(run, gamma="one"))
    assert runs and set(map(str, runs)) == {"({False}, False)"}
    assert (model.training, model[1].training, model[2].training) == (True, False, True)


def test_reduce_sums_over_the_processes_of_the_group(monkeypatch):
    def all_reduce(tensor, group):
        groups.append(group)
        tensor.mul_(2)

    groups, own = [], torch.ones(2)
    monkeypatch.setattr(calibration.distributed, "all_reduce", all_reduce)
    assert calibration._make_reduce("group")(own).tolist() == [2.0, 2.0]
    assert own.tolist() == [1.0, 1.0] and groups == ["group"]
    assert calibration._make_reduce(None)(own) is own


@pytest.mark.parametrize(
    ("lengths", "others", "same"),
    [
        ({(4,)}, [], True),
        ({(2, 2)}, [4, 4], True),
        ({()}, [1], True),  # inputs of one position
        ({(4,), (5,)}, [], False),
        ({(4,)}, [5], False),
        ({(4,)}, [3, 5], False),  # the same on average
        ({(4,)}, [0], False),  # lengths differ in the other process
        ({(0,)}, [], False),
    ],
)
def test_positions_are_fixed_if_all_processes_have_the_same_length(lengths, others, same):
    values = [torch.tensor([1.0, n, n**2], dtype=torch.float64) for n in others]
    run = SimpleNamespace(reduce=lambda tensor: sum(values, tensor))
    found = calibration._Run.same_on_all_ranks(run, lengths, torch.device("cpu"))
    assert found == same


def test_calibrate_with_a_sigmoid_fits_alpha_alone():
    """It is not odd: at a small α its output is a constant."""
    with pytest.warns(UserWarning, match="differ from the norm layer"):
        fit = convert(net(), Norm.dyt(squash="sigmoid"), calibrate=X)[0].fit
    assert fit.scale is None and fit.weight is None and fit.alpha > 0


def test_calibrate_takes_64_batches():
    report = convert(net(), calibrate=iter([X[:1]] * 64))
    assert report[0].fit.input_rms == pytest.approx(
        convert(net(), calibrate=X[:1])[0].fit.input_rms, rel=1e-4
    )


def test_convert_without_calibration_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(net())
        convert(net(), Norm.batch_norm(), copy_affine=True)


def test_norm_calibrated_is_a_variant_that_needs_data():
    norm = Norm.dyt("calibrated")
    assert str(norm) == "DyT(calibrated)"
    assert norm != Norm.dyt()
    with pytest.raises(ValueError, match="needs data"):
        convert(net(), norm)
    with pytest.raises(ValueError, match="is calibrated"):
        norm.alpha0_for("norm")
    report, plain = convert(net(), norm, calibrate=X), convert(net(), calibrate=X)
    assert report.norm == norm
    assert [r.alpha0 for r in report] == [r.alpha0 for r in plain]


def test_calibrate_subsamples_large_inputs_at_all_positions(monkeypatch):
    """A class token at every 25th row is neither missed nor all that is seen."""
    monkeypatch.setattr(calibration_fit, "SEARCH_VALUES", 1024)
    x = torch.randn(64, 25, 8, generator=torch.Generator().manual_seed(0))
    fit = convert(nn.Sequential(nn.LayerNorm(8)), calibrate=x)[0].fit
    monkeypatch.undo()
    assert fit.alpha == pytest.approx(
        convert(nn.Sequential(nn.LayerNorm(8)), calibrate=x)[0].fit.alpha, rel=0.1
    )
    monkeypatch.setattr(calibration, "SAMPLED_VALUES", 25 * 8 * 4)
    few = convert(nn.Sequential(nn.LayerNorm(8)), calibrate=x)[0].fit
    assert few.alpha == pytest.approx(fit.alpha, rel=0.2)


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(input=x)


def test_calibrate_norm_that_is_called_by_keyword():
    fits = [
        convert(model, calibrate=X)[0].fit for model in (Keyword(), nn.Sequential(nn.LayerNorm(8)))
    ]
    assert fits[0].alpha == fits[1].alpha


class EarlyExit(nn.Module):
    """A network that calls its second norm only if its first one gives large values."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.LayerNorm(16) for _ in range(3))

    def forward(self, x):
        h = self.first(x)
        return self.last(self.second(h) if h.abs().max() > 1.5 else h)


def test_calibrate_leaves_out_layers_that_replaced_norms_make_unreachable():
    data = Calibration(torch.randn(8, 16), gamma="one")
    with pytest.warns(UserWarning, match="the data never reached second; α there is 0.5"):
        report = convert(EarlyExit(), calibrate=data)
    assert [entry.fit is None for entry in report] == [False, True, False]
