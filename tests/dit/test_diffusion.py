"""Diffusion: losses and sampler steps of the DiT release, guidance, and per-image generators."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dyt_dit import diffusion
from dyt_dit.config import Network
from dyt_dit.diffusion import Diffusion, classifier_free_guidance, sample

from . import formula
from .test_model import SIZES, model_with_formula_weights

OFFICIAL = json.loads(Path(__file__).with_name("official.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SIZES)
def test_losses_match_dit_release(name):
    model = model_with_formula_weights(replace(SIZES[name], input_size=8, depth=2))
    x, t, labels, noise = formula.inputs()
    diffusion = Diffusion(1000)
    noised = diffusion.noised(x, t, noise)
    with torch.no_grad():
        squared, bits = diffusion.losses(model(noised, t, labels), x, noised, t, noise)
    for term, key in ((squared, "mse"), (bits, "vb")):
        torch.testing.assert_close(term, torch.tensor(OFFICIAL[name][key]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("steps", [100, 250, 4000])
def test_diffusion_of_any_length_ends_in_noise(steps):
    """The signal left after the last step is about that of the thousand steps of the papers."""
    last = Diffusion(1000).tables["signal"][-1]
    assert last == pytest.approx(0.00635, rel=1e-3)
    diffusion = Diffusion(steps)
    assert diffusion.tables["signal"][-1] == pytest.approx(last, rel=0.3)
    assert len(diffusion.betas) == steps and 0 < diffusion.betas.min() < diffusion.betas.max() < 1


def test_variational_bound_trains_only_variance():
    x, t, _, noise = formula.inputs()
    diffusion = Diffusion(1000)
    output = torch.cat([noise * 0.9, x * 0.1], dim=1).requires_grad_()
    _, bits = diffusion.losses(output, x, diffusion.noised(x, t, noise), t, noise)
    (gradient,) = torch.autograd.grad(bits.sum(), output)
    mean, variance = gradient.chunk(2, dim=1)
    assert not mean.any() and variance.flatten(1).any(dim=1).all()


def test_likelihood_of_outermost_bins_is_open():
    """The first step's term is a likelihood over 256 bins, the outermost of which are open."""
    diffusion, t = Diffusion(1000), torch.zeros(1, dtype=torch.long)
    x = torch.full((1, 1, 2, 2), 1.0)
    noise = torch.zeros_like(x)
    far = torch.cat([torch.full_like(x, -300.0), torch.zeros_like(x)], dim=1)  # means beyond 1
    _, at_edge = diffusion.losses(far, x, diffusion.noised(x, t, noise), t, noise)
    _, inside = diffusion.losses(far, 0.9 * x, diffusion.noised(0.9 * x, t, noise), t, noise)
    assert at_edge < 1e-3 < inside


def fake_model(x, t, labels=None):
    """A network output that depends on all inputs."""
    noise = 0.3 * x + 0.01 * torch.sin(x * 3 + t[:, None, None, None] / 100)
    return torch.cat([noise, torch.tanh(x)], dim=1)


def test_scheduler_step_matches_dit_release():
    """Mean and variance; a float32 schedule would be off by 1e-4 at the last steps."""
    scheduler = Diffusion(1000).scheduler(250)
    assert scheduler.timesteps.tolist() == OFFICIAL["sampler"]["timesteps"][::-1]
    x = formula.inputs()[0]
    for t, mean, log_variance in OFFICIAL["sampler"]["steps"]:
        output = fake_model(x, torch.full((6,), t))
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        source = torch.Generator().manual_seed(1)
        after = scheduler.step(output, t, x, source, return_dict=False)[0]
        expected = torch.tensor(mean)
        if t > 0:
            expected = expected + torch.tensor(log_variance).mul(0.5).exp() * drawn[0, 0, 0, :3]
        torch.testing.assert_close(after[0, 0, 0, :3], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 250, 1000])
def test_scheduler_steps_are_evenly_spaced(steps):
    found = Diffusion(1000).scheduler(steps).timesteps.tolist()
    assert len(set(found)) == steps and found == sorted(found, reverse=True)
    assert found[-1] == 0 and (steps == 1 or found[0] == 999)


def test_classifier_free_guidance_matches_dit_release():
    network = Network(input_size=8, patch_size=4, width=64, depth=1, heads=4)
    x, _, labels, _ = formula.inputs()
    with torch.no_grad():
        guided = classifier_free_guidance(model_with_formula_weights(network), 1.5, 1000)
        found = guided(x, torch.full((6,), 500), labels)
    expected = torch.tensor(OFFICIAL["guided"])
    torch.testing.assert_close(found[:2, :, 3, 5].flatten(), expected, rtol=1e-5, atol=1e-5)


def test_classifier_free_guidance_leaves_variance_unchanged():
    def model(x, t, labels):
        return torch.cat(
            [x * labels[:, None, None, None], 100 * labels[:, None, None, None] + x], 1
        )

    x, t, labels = torch.ones(2, 1, 2, 2), torch.tensor([5, 5]), torch.tensor([1, 2])
    found = classifier_free_guidance(model, 3.0, 4)(x, t, labels)
    assert found[:, 0, 0, 0].tolist() == [4 + 3 * (1 - 4), 4 + 3 * (2 - 4)]
    assert found[:, 1, 0, 0].tolist() == [101, 201]


def test_sample_depends_only_on_own_generator_and_class():
    def sampled(seeds, labels):
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        scheduler = Diffusion(1000).scheduler(5)

        def model(x, t, y):
            return fake_model(x + y[:, None, None, None] / 10, t)

        return sample(model, scheduler, torch.tensor(labels), (1, 4, 4), sources)

    together = sampled([3, 4, 5], [0, 1, 2])
    assert torch.equal(together, sampled([3, 4, 5], [0, 1, 2]))
    for i, seed in enumerate([3, 4, 5]):
        torch.testing.assert_close(sampled([seed], [i])[0], together[i])
    assert not torch.equal(sampled([3], [1])[0], together[0])
    assert not torch.equal(sampled([6], [0])[0], together[0])


@pytest.mark.parametrize("mean", [-1.0, 0.3, 0.99])
def test_likelihoods_of_all_8_bit_values_add_up_to_1(mean):
    values = torch.arange(256) / 127.5 - 1
    mean, log_scale = torch.full((256,), mean), torch.full((256,), -4.0)
    likelihoods = diffusion._discretized_log_likelihood(values, mean, log_scale).exp()
    assert likelihoods.sum().item() == pytest.approx(1.0, abs=1e-4)
