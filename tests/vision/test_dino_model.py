"""DINO's networks, derived a second time: loops over rows and patches."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dyt_vision.dino import build
from dyt_vision.dino_model import Backbone, WeightNormLinear

from .dino_models import crops, distillation, output
from .tiny import TINY_DINO


def cubic(distance, a=-0.75):
    """Return the kernel of bicubic interpolation at a distance."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


class TestPositions:
    @pytest.fixture
    def backbone(self):
        return Backbone(TINY_DINO)

    def test_positions_of_the_original_size_are_the_parameter(self, backbone):
        assert backbone._interpolated_positions(4, 4) is backbone.pos_embed

    def test_position_of_the_class_token_is_not_interpolated(self, backbone):
        assert torch.equal(backbone._interpolated_positions(2, 3)[:, 0], backbone.pos_embed[:, 0])

    @pytest.mark.parametrize("height, width", [(2, 2), (3, 2), (6, 5)])
    def test_positions_are_interpolated_as_in_the_release(self, backbone, height, width):
        grid = backbone.pos_embed[0, 1:].detach().double().numpy().reshape(4, 4, 32)
        expected = np.zeros((height, width, 32))
        for y in range(height):
            for x in range(width):
                # The release scales by a tenth of a patch more than there are.
                row = (y + 0.5) * 4 / (height + 0.1) - 0.5
                column = (x + 0.5) * 4 / (width + 0.1) - 0.5
                for r in range(math.floor(row) - 1, math.floor(row) + 3):
                    for c in range(math.floor(column) - 1, math.floor(column) + 3):
                        value = grid[min(max(r, 0), 3), min(max(c, 0), 3)]
                        expected[y, x] += value * cubic(row - r) * cubic(column - c)
        positions = backbone._interpolated_positions(height, width)
        assert positions.shape == (1, 1 + height * width, 32)
        np.testing.assert_allclose(positions[0, 1:].detach(), expected.reshape(-1, 32), atol=1e-6)

    def test_backbone_accepts_any_image_size(self, backbone):
        for size in (16, 8, 24):
            assert backbone(torch.randn(2, 3, size, size)).shape == (2, 32)


def test_multi_crop_wrapper_batches_crops_of_equal_size():
    model = distillation()
    shapes = []
    model.student.backbone.register_forward_pre_hook(
        lambda _, inputs: shapes.append(inputs[0].shape)
    )
    views = crops()
    outputs = model.student(views)
    assert shapes == [(6, 3, 16, 16), (6, 3, 8, 8)]
    expected = np.concatenate([output(model.student, crop) for crop in views])
    np.testing.assert_allclose(outputs.detach(), expected, rtol=1e-4, atol=1e-5)


class TestHead:
    def test_weight_norm_linear_separates_length_and_direction(self):
        layer = WeightNormLinear(6, 4)
        layer.weight_g.data = torch.tensor([[1.0], [2.0], [0.5], [-1.0]])
        x = torch.randn(5, 6)
        for out, g, v in zip(layer(x).T, layer.weight_g, layer.weight_v, strict=True):
            torch.testing.assert_close(out, x @ (v * g / v.square().sum().sqrt()))

    def test_head_is_mlp_normalization_and_linear_layer(self):
        head = distillation().student.head
        x = torch.randn(5, 32)
        hidden = x
        for i, layer in enumerate((head.mlp[0], head.mlp[2], head.mlp[4])):
            hidden = hidden @ layer.weight.T + layer.bias
            if i < 2:
                hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        hidden = hidden / hidden.square().sum(dim=1, keepdim=True).sqrt()
        assert hidden.shape == (5, 16)
        rows = F.normalize(head.last_layer.weight_v, dim=1) * head.last_layer.weight_g
        torch.testing.assert_close(head(x), hidden @ rows.T)

    def test_head_initialization(self):
        wide = replace(TINY_DINO, width=64, head_width=512, bottleneck=64, outputs=512)
        head = build(wide)[0].student.head
        for layer in (head.mlp[0], head.mlp[2], head.mlp[4]):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
            assert not layer.bias.any()
        assert (head.last_layer.weight_g == 1).all()
        assert 0.99 / 8 < head.last_layer.weight_v.abs().max() <= 1 / 8


def test_backbone_tokens_are_initialized_with_deviation_0_02():
    backbone = Backbone(replace(TINY_DINO, width=256))
    for tensor in (backbone.pos_embed, backbone.cls_token):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)


class TestAttention:
    @pytest.mark.parametrize("size, side", [(16, 4), (24, 6)])
    def test_last_attention_is_the_class_tokens(self, size, side):
        backbone = distillation().teacher.backbone
        image = torch.randn(2, 3, size, size)
        attention = backbone.last_attention(image)
        assert attention.shape == (2, 2, side, side)
        recorded = SimpleNamespace()
        last = backbone.blocks[-1]
        last.attn.qkv.register_forward_hook(lambda *call: setattr(recorded, "qkv", call[-1]))
        backbone(image)
        for i in range(2):
            for head in range(2):
                channels = slice(16 * head, 16 * (head + 1))
                query = recorded.qkv[i, 0, :32][channels]
                keys = recorded.qkv[i, :, 32:64][:, channels]
                shares = (keys @ query / 4).softmax(dim=0)  # √16
                torch.testing.assert_close(attention[i, head].flatten(), shares[1:])
        rest = 1 - attention.sum(dim=(-2, -1))  # attention of the class token to itself
        assert (rest > 0).all() and (rest < 1).all()
