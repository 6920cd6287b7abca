"""The masked autoencoder, compared with a second derivation that loops over patches and pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt_vision.mae import build, draw_mask_noise, make_optimizer
from dyt_vision.mae_model import sincos_positions
from dyt_vision.normfree import NormFree
from matched.training import reseed

from .tiny import ARMS, DYT, TINY_MAE

SIDE, PATCH, WIDTH, VISIBLE = 4, 4, 32, 4  # of TINY_MAE: 16 patches, a quarter of them visible
PATCHES = SIDE**2


@pytest.fixture(scope="module")
def model():
    return build(TINY_MAE)[0].eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def noise():
    return torch.rand(3, PATCHES, generator=torch.Generator().manual_seed(2))


def pixels_of(image, patch):
    """Return a patch's pixels in row-major order, channels last."""
    top, left = divmod(patch, SIDE)
    return [
        image[color, top * PATCH + y, left * PATCH + x].item()
        for y in range(PATCH)
        for x in range(PATCH)
        for color in range(3)
    ]


def target_of(image, patch, norm_pix):
    values = np.array(pixels_of(image, patch), dtype=np.float64)
    if not norm_pix:
        return values
    variance = sum((v - values.mean()) ** 2 for v in values) / (len(values) - 1)
    return (values - values.mean()) / math.sqrt(variance + 1e-6)


def position_of(row, column, width):
    """Return the position embedding: column before row, sines before cosines."""
    quarter = width // 4
    return [
        wave(place / 10000 ** (i / quarter))
        for place in (column, row)
        for wave in (math.sin, math.cos)
        for i in range(quarter)
    ]


def derived(model, image, noise, norm_pix):
    """Return one image's prediction (N, 48), hidden patches and sum of their errors."""
    ranked = sorted(range(PATCHES), key=lambda patch: noise[patch].item())
    visible = ranked[:VISIBLE]
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    tokens = [model.cls_token[0, 0]]
    for patch in visible:
        top, left = (PATCH * place for place in divmod(patch, SIDE))
        part = image[:, top : top + PATCH, left : left + PATCH]
        token = (weight * part).sum(dim=(1, 2, 3)) + bias
        tokens.append(token + torch.tensor(position_of(*divmod(patch, SIDE), WIDTH)))
    x = torch.stack(tokens)[None]
    for block in model.blocks:
        x = block(x)
    x = model.decoder_embed(model.norm(x))[0]
    width = x.shape[-1]
    places = [x[0]]
    for patch in range(PATCHES):
        token = x[1 + visible.index(patch)] if patch in visible else model.mask_token[0, 0]
        places.append(token + torch.tensor(position_of(*divmod(patch, SIDE), width)))
    x = torch.stack(places)[None]
    for block in model.decoder_blocks:
        x = block(x)
    prediction = model.decoder_pred(model.decoder_norm(x))[0, 1:].detach().double().numpy()
    hidden = [patch for patch in range(PATCHES) if patch not in visible]
    errors = [
        np.mean((prediction[patch] - target_of(image, patch, norm_pix)) ** 2) for patch in hidden
    ]
    return prediction, hidden, sum(errors)


@pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
@pytest.mark.parametrize("norm_pix", [True, False])
def test_forward_matches_a_patch_by_patch_derivation(norm, norm_pix, images, noise):
    model, _ = build(replace(TINY_MAE, norm=norm, norm_pix=norm_pix))
    loss, predictions, masks = model.eval()(images, noise)
    total = 0.0
    for i, image in enumerate(images):
        prediction, hidden, error = derived(model, image, noise[i], norm_pix)
        np.testing.assert_allclose(predictions[i].detach(), prediction, atol=2e-5)
        assert masks[i].tolist() == [float(patch in hidden) for patch in range(PATCHES)]
        total += error
    assert loss.item() == pytest.approx(total / (3 * (PATCHES - VISIBLE)), rel=1e-5)


def test_patchify_is_row_major_with_channels_last(model, images):
    patches = model.patchify(images)
    assert patches.shape == (3, PATCHES, 3 * PATCH**2)
    for i in range(3):
        for patch in range(PATCHES):
            assert patches[i, patch].tolist() == pixels_of(images[i], patch)
    assert torch.equal(model.unpatchify(patches), images)


def test_target_is_normalized_by_each_patchs_statistics(model, images):
    target = model.target(images)
    for patch in range(PATCHES):
        expected = target_of(images[2], patch, norm_pix=True)
        np.testing.assert_allclose(target[2, patch], expected, rtol=1e-4, atol=1e-5)
    assert target.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(target.var(-1), torch.ones(3, PATCHES), rtol=1e-4, atol=1e-4)


def test_target_of_a_uniform_patch_is_finite(model):
    assert torch.equal(model.target(torch.ones(1, 3, 16, 16)), torch.zeros(1, PATCHES, 48))


@pytest.mark.parametrize("width, side", [(768, 14), (512, 14), (16, 3)])
def test_sincos_positions_encode_column_and_row(width, side):
    positions = sincos_positions(width, side)
    assert positions.shape == (1, 1 + side**2, width)
    assert not positions[0, 0].any()
    for place in (0, 1, side, side**2 - 2):
        expected = position_of(*divmod(place, side), width)
        assert positions[0, 1 + place].tolist() == pytest.approx(expected, abs=1e-6)


class TestMask:
    @pytest.mark.parametrize("ratio, visible", [(0.75, 4), (0.6, 6), (0.9, 1), (0.01, 15)])
    def test_patches_with_the_smallest_noise_are_visible(self, images, noise, ratio, visible):
        model, _ = build(replace(TINY_MAE, mask_ratio=ratio))
        mask = model(images, noise)[2]
        for row, numbers in zip(mask, noise, strict=True):
            unmasked = {i for i, hidden in enumerate(row.tolist()) if not hidden}
            assert unmasked == set(numbers.argsort()[:visible].tolist())

    def test_prediction_does_not_depend_on_hidden_patches(self, model, images, noise):
        _, before, mask = model(images, noise)
        hidden = model.unpatchify(mask[:, :, None].expand(-1, -1, 48))
        changed = model(torch.where(hidden == 1, images + 7, images), noise)[1]
        assert torch.equal(changed, before)
        changed = model(torch.where(hidden == 0, images + 7, images), noise)[1]
        assert not torch.isclose(changed, before).all(-1).any()

    def test_loss_has_no_gradient_for_visible_patches(self, model, images, noise):
        outputs = []
        handle = model.decoder_pred.register_forward_hook(lambda *call: outputs.append(call[-1]))
        loss, _, mask = model(images, noise)
        handle.remove()
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert not gradient[:, 0].any()  # of the class token
        assert torch.equal(gradient[:, 1:].abs().amax(-1) > 0, mask == 1)

    def test_draw_mask_noise_depends_only_on_the_steps_seed(self, images):
        drawn = []
        for place in ((1,), (1,), (2,)):
            reseed(*place)
            image, noise = draw_mask_noise(TINY_MAE)([images, torch.zeros(3)])
            assert image is images and noise.shape == (3, PATCHES)
            drawn.append(noise)
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
        assert drawn[0].min() >= 0 and drawn[0].max() < 1
        assert len(drawn[0].unique()) == 3 * PATCHES


@pytest.fixture(scope="module")
def wide():
    """Return a model as wide as the real one, wide enough to see the weights' distribution."""
    return build(replace(TINY_MAE, width=768, depth=1, decoder_width=512))[0]


class TestInitialization:
    def test_matrices_are_xavier_uniform_and_biases_zero(self, wide):
        for name, parameter in wide.named_parameters():
            if name == "patch_embed.proj.bias":  # torch's default, as in the release
                assert 0.9 * 48**-0.5 < parameter.abs().max() <= 48**-0.5
            elif name.endswith(".bias"):
                assert not parameter.any(), name
            elif parameter.ndim in (2, 4):
                outputs, inputs = parameter.flatten(1).shape  # also of the patch embedding
                bound = math.sqrt(6 / (inputs + outputs))
                assert 0.99 * bound < parameter.abs().max().item() <= bound, name
                assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), name

    def test_tokens_are_normal_with_deviation_0_02(self, wide):
        for token in (wide.cls_token, wide.mask_token):
            assert token.std().item() == pytest.approx(0.02, rel=0.1)

    def test_initial_weights_depend_only_on_the_seed(self):
        one, two, other = (build(replace(TINY_MAE, seed=s))[0].state_dict() for s in (0, 0, 1))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert not torch.equal(one["mask_token"], other["mask_token"])


def test_optimizer_decays_matrices_and_skips_positions():
    model, _ = build(replace(TINY_MAE, norm=DYT))
    adamw = make_optimizer(model, replace(TINY_MAE, weight_decay=0.05, betas=(0.9, 0.95), lr=0.002))
    names = {id(p): name for name, p in model.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        if name in ("pos_embed", "decoder_pos_embed"):
            assert name not in decay
        else:
            assert decay[name] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert {(g["lr"], g["betas"]) for g in adamw.param_groups} == {(0.002, (0.9, 0.95))}


def test_loss_in_bf16_is_close_to_fp32(model, images, noise):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, mask = model(images, noise)
    exact, _, same = model(images, noise)
    assert torch.equal(mask.float(), same)
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("method", ["fixup", "skipinit", "sigma_reparam"])
def test_norm_free_mae_has_finite_gradients(method, images, noise):
    model, paths = build(replace(TINY_MAE, norm=NormFree(method=method)))
    assert {"norm", "decoder_norm", "blocks.0.norm1", "decoder_blocks.0.norm2"} <= set(paths)
    loss, prediction, _ = model(images, noise)
    loss.backward()
    assert loss.isfinite() and prediction.isfinite().all()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    assert any(gradient.any() for gradient in gradients.values())
