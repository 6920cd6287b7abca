"""The Hyena operator against a direct sum over lags, and its promises about lengths and types."""

from dataclasses import replace

import pytest
import torch

from dyt_hyenadna import causal_convolution as module
from dyt_hyenadna.causal_convolution import causal_convolution, fast_fft_size
from dyt_hyenadna.hyena_operator import HyenaFilter, HyenaOperator
from dyt_hyenadna.initialization import initialize
from dyt_hyenadna.network_config import HyenaNetwork

from ..messages import refused

NETWORK = HyenaNetwork(width=6, layers=1, max_length=40, filter_width=8)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def operator():
    operator = HyenaOperator(NETWORK)
    initialize(operator, NETWORK, 0)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.mul_(3)  # with the initial weights the filters are nearly constant
    return operator


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolve_directly(x, filters):
    """Return Σ filters[m] · x[l - m] as a loop over lags, differentiable."""
    length = x.shape[-1]
    return sum(
        filters[:, lag, None] * torch.nn.functional.pad(x, (lag, 0))[..., :length]
        for lag in range(length)
    )


@pytest.mark.parametrize("length", [1, 2, 7, 33, 64])
def test_causal_convolution_and_gradients_equal_the_direct_sum(length):
    x, filters = noise(2, 3, length).requires_grad_(), noise(3, length, seed=1).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, filters)]
    weight = noise(2, 3, length, seed=2)
    ours, direct = causal_convolution(x, filters), convolve_directly(*exact)
    assert torch.allclose(ours.double(), direct, atol=1e-5)
    (ours * weight).sum().backward()
    (direct * weight).sum().backward()
    for found, expected in zip((x, filters), exact, strict=True):
        assert torch.allclose(found.grad.double(), expected.grad, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_causal_convolution_of_channel_groups_equals_one_transform(monkeypatch, channels):
    weight = noise(2, 5, 24, seed=2)

    def convolve():
        x, filters = noise(2, 5, 24).requires_grad_(), noise(5, 24, seed=1).requires_grad_()
        y = causal_convolution(x, filters)
        (y * weight).sum().backward()
        return y, x.grad, filters.grad

    whole = convolve()
    monkeypatch.setattr(module, "GROUP_BYTES", channels * 2 * 4 * fast_fft_size(47))
    assert module._channel_groups(weight, fast_fft_size(47))[0] == slice(0, channels)
    for grouped, expected in zip(convolve(), whole, strict=True):
        torch.testing.assert_close(grouped, expected, rtol=0, atol=1e-6)


def test_causal_convolution_is_a_well_formed_torch_operator():
    args = (noise(2, 3, 9).requires_grad_(), noise(3, 9, seed=1).requires_grad_())
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.dyt_hyenadna.causal_convolution, args, test_utils=checks)


def test_causal_convolution_computes_half_types_in_float32():
    # The sum of 70,000 ones exceeds the largest float16, and so does their spectrum.
    x = torch.ones(1, 1, 70_000)
    filters = torch.full((1, 70_000), 1e-3)
    y = causal_convolution(x.half(), filters)
    assert y.dtype == torch.float16
    assert torch.allclose(y.float(), causal_convolution(x, filters), rtol=1e-3)


def test_fast_fft_size_is_even_smooth_and_close():
    for least in [*range(1, 3000), 65_535, 262_147, 2_000_003]:
        size = fast_fft_size(least)
        assert least <= size and size % 2 == 0
        assert least < 100 or size <= 1.12 * least
        for prime in (2, 3, 5):
            while size % prime == 0:
                size //= prime
        assert size == 1
    assert fast_fft_size(2 * 1024 - 1) == 2048


def test_operator_equals_its_definition(operator):
    x = noise(2, 30, 6)
    projected = operator.in_proj(x).transpose(1, 2)
    weight, bias = operator.short_filter.weight[:, 0], operator.short_filter.bias
    # weight[:, 2] belongs to lag 0, because torch's convolution is a correlation
    short = convolve_directly(
        projected, torch.cat([weight.flip(1), torch.zeros(18, 27)], dim=1)
    ) + bias.unsqueeze(1)
    outer_gate, inner_gate, value = short.split(6, dim=1)
    mixed = convolve_directly(value * inner_gate, operator.filter_fn(30))
    expected = operator.out_proj((mixed * outer_gate).transpose(1, 2))
    assert torch.allclose(operator(x), expected, atol=1e-5)


def test_operator_is_causal(operator):
    x = noise(1, 40, 6)
    changed = x.clone()
    changed[:, 25:] += 1
    before, after = operator(x), operator(changed)
    assert torch.allclose(before[:, :25], after[:, :25], atol=1e-5)
    assert not torch.allclose(before[:, 25:], after[:, 25:], atol=1e-3)


def test_filter_of_a_shorter_sequence_is_the_start_of_the_longest(operator):
    assert torch.equal(operator.filter_fn(40)[:, :17], operator.filter_fn(17))


def test_sequence_longer_than_max_length_is_refused_in_one_line(operator):
    assert refused(operator, noise(1, 41, 6)) == (
        "a sequence has 41 positions, but the network's filters cover 40: shorten the sequences, "
        "or train with a larger max_length"
    )


def test_decay_shift_is_added_to_the_decay():
    plain, shifted = HyenaFilter(NETWORK), HyenaFilter(replace(NETWORK, decay_shift=0.05))
    shifted.load_state_dict(plain.state_dict())
    filters, time = torch.randn(40, 6), plain.pos_emb(40)[1]
    difference = shifted.modulation(filters, time) - plain.modulation(filters, time)
    assert torch.allclose(difference, 0.05 * filters, atol=1e-6)


def test_decay_reaches_one_percent_at_fast_and_slow_decay():
    modulation = HyenaFilter(replace(NETWORK, fast_decay=0.3, slow_decay=0.9)).modulation
    decay = modulation(torch.ones(2, 6), torch.tensor([[0.3], [0.9]]))
    assert decay[0, -1].item() == pytest.approx(0.01, rel=1e-4)
    assert decay[1, 0].item() == pytest.approx(0.01, rel=1e-4)


def test_filter_is_computed_in_float32_under_autocast(operator):
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = operator.filter_fn(40)
    assert torch.equal(under_autocast, operator.filter_fn(40))
