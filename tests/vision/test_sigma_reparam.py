"""σReparam: spectral norm |γ| of every layer, exact gradients, power iteration."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyt_vision.normfree import NormFree, apply
from dyt_vision.normfree.sigma_reparam import SpectralScaling

from .test_normfree import applied, autoencoder, images, trained, vit


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spectral_norm(weight):
    return torch.linalg.svdvals(weight.detach().flatten(1))[0].item()


def layers(model):
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def mean_error(model):
    """Return the mean relative difference of the layers' spectral norms from |γ| in evaluation."""
    was, norms = model.training, []
    for layer in layers(model.eval()):
        gamma = layer.parametrizations.weight[0].gamma.abs().item()
        norms.append(abs(spectral_norm(layer.weight) / gamma - 1))
    model.train(was)
    return sum(norms) / len(norms)


def exact(weight, gamma):
    """Return the scaled weight, computed with the exact singular value."""
    return gamma / torch.linalg.svdvals(weight.flatten(1))[0] * weight


class TestSpectralScaling:
    # The weights of a ViT-B's layers have many singular values near the largest.
    @pytest.mark.parametrize("shape", [(2304, 768), (768, 768), (10, 32), (32, 10), (32, 3, 4, 4)])
    def test_sigma_is_within_one_percent_at_construction(self, shape):
        weight = drawn(*shape)
        scaled = SpectralScaling(weight)(weight)
        assert scaled.shape == shape
        assert spectral_norm(scaled) == pytest.approx(1, rel=0.01)

    @pytest.mark.parametrize("shape", [(24, 16), (8, 3, 2, 2)])
    def test_values_and_gradients_match_the_svd(self, shape):
        weight = drawn(*shape).double().requires_grad_()
        scaling = SpectralScaling(weight)
        with torch.no_grad():
            scaling.gamma.fill_(-1.7)
            for _ in range(500):
                scaling(weight)
        direction = drawn(*shape, seed=1).double()
        (scaling(weight) * direction).sum().backward()
        own, gamma = weight.grad, scaling.gamma.detach().clone().requires_grad_()
        weight.grad = None
        (exact(weight, gamma) * direction).sum().backward()
        torch.testing.assert_close(scaling(weight), exact(weight, gamma))
        torch.testing.assert_close(own, weight.grad)
        torch.testing.assert_close(scaling.gamma.grad, gamma.grad)

    def test_scaling_is_invariant_to_the_weights_scale(self):
        weight = drawn(12, 8)
        scaling = SpectralScaling(weight)
        for factor in (1e-15, 1e15):
            torch.testing.assert_close(scaling(factor * weight), scaling(weight))

    def test_zero_weight_is_finite_and_can_leave_zero(self):
        weight = torch.zeros(6, 4, requires_grad=True)
        scaling = SpectralScaling(weight)
        scaled = scaling(weight)
        scaled.sum().backward()
        assert not scaled.any()
        assert torch.equal(weight.grad, torch.ones(6, 4))
        assert scaling.gamma.grad.isfinite().all()
        for _ in range(100):
            scaled = scaling(drawn(6, 4))
        assert spectral_norm(scaled) == pytest.approx(1, rel=1e-3)

    def test_u_is_updated_only_in_training_mode(self):
        weight = drawn(12, 8)
        scaling = SpectralScaling(drawn(12, 8, seed=1)).eval()
        start = scaling.u.clone()
        expected = scaling(weight)
        assert torch.equal(scaling.u, start)
        scaling.u.mul_(0.01)
        torch.testing.assert_close(scaling(weight), expected)
        scaling.train()(weight)
        assert not torch.equal(scaling.u, 0.01 * start)
        assert scaling.u.norm() == pytest.approx(1)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_scaling_uses_single_precision_under_autocast(self, dtype):
        weight = drawn(24, 16).to(dtype)
        scaling = SpectralScaling(weight)
        assert scaling.u.dtype == scaling.gamma.dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scaled = scaling(weight)
        assert scaled.dtype == dtype
        torch.testing.assert_close(scaled, exact(weight.float(), 1.0).to(dtype))


class TestModel:
    def test_every_linear_layer_has_a_gamma_of_one(self):
        model, paths = applied("sigma_reparam")
        found = {name for name, _ in model.named_parameters() if name.endswith(".gamma")}
        names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        expected = {"patch_embed.proj", "head"}
        expected |= {f"blocks.{i}.{name}" for i in range(2) for name in names}
        scalings = {f"{path}.parametrizations.weight.0" for path in expected}
        assert found == {f"{path}.gamma" for path in scalings}
        assert scalings < set(paths)
        assert all(model.get_parameter(name).tolist() == [1] for name in found)

    def test_every_layer_of_an_autoencoder_has_a_gamma(self):
        model, _ = applied("sigma_reparam", autoencoder)
        found = [name for name, _ in model.named_parameters() if name.endswith(".gamma")]
        assert len(found) == len(layers(autoencoder())) == 4 * (3 + 1) + 3

    def test_spectral_norm_of_every_layer_is_gamma(self):
        model, _ = applied("sigma_reparam")
        for number, layer in enumerate(layers(model)):
            gamma = layer.parametrizations.weight[0].gamma
            gamma.data.fill_((-1) ** number * 0.5 * (1 + number))
            assert spectral_norm(layer.weight) == pytest.approx(abs(gamma.item()), rel=1e-3)

    def test_power_iteration_tracks_changing_weights(self):
        model, _ = applied("sigma_reparam")
        start = copy.deepcopy(model)
        trained(model, steps=60, lr=1e-3)
        assert mean_error(model) < 0.05
        for _ in range(100):
            model(images())
        assert mean_error(model) < 1e-3
        for layer, before in zip(layers(model), layers(start), strict=True):
            layer.parametrizations.weight[0].u.copy_(before.parametrizations.weight[0].u)
        assert mean_error(model) > 0.25, "the weights have changed much"

    @pytest.mark.parametrize("training", [True, False])
    def test_scaling_has_the_mode_of_its_layer(self, training):
        model = vit().train(training)
        apply(model, NormFree(method="sigma_reparam"))
        assert {module.training for module in model.modules()} == {training}

    def test_evaluation_is_deterministic(self):
        model, _ = applied("sigma_reparam")
        trained(model, steps=2)
        model.eval()
        assert torch.equal(model(images()), model(images()))

    def test_two_forward_passes_before_one_backward_pass(self):
        """u changes between them; the backward pass must use each forward pass's own u."""
        model, _ = applied("sigma_reparam")
        labels = torch.arange(8)
        loss = F.cross_entropy(model(images()), labels) + F.cross_entropy(model(images()), labels)
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
