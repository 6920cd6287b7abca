"""DINO's networks and loss derived a second time: loops over pairs, rows and patches."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dyt_vision.dino import build
from dyt_vision.dino_model import Backbone, WeightNormLinear

from .tiny import ARMS, TINY_DINO, weights

STILL = replace(TINY_DINO, drop_path=0.0)


def distillation(config=STILL, seed=5):
    """Student, teacher and centre that all differ, in training mode."""
    model, _ = build(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.student.parameters(), *model.teacher.parameters(), model.center):
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.train()


def crops(images=3, seed=1, local=2):
    source = torch.Generator().manual_seed(seed)
    sizes = [16, 16] + [8] * local
    return [torch.randn(images, 3, size, size, generator=source) for size in sizes]


def output(network, crop):
    return network.head(network.backbone(crop)).detach().double().numpy()


def softmax(row, temperature):
    powers = np.exp(row / temperature - np.max(row / temperature))
    return powers / powers.sum()


class TestLoss:
    @pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
    @pytest.mark.parametrize("local", [0, 2])
    def test_it_is_the_cross_entropy_of_each_pair_of_different_crops(self, norm, local):
        model = distillation(replace(STILL, norm=norm, local_crops=local))
        views = crops(local=local)
        center = model.center.double().numpy()
        found = []
        for i, globally in enumerate(views[:2]):
            for j, crop in enumerate(views):
                if i == j:
                    continue
                teachers, students = output(model.teacher, globally), output(model.student, crop)
                for teacher, student in zip(teachers, students, strict=True):
                    target = softmax(teacher - center[0], 0.05)
                    found.append(-(target * np.log(softmax(student, 0.1))).sum())
        assert len(found) == 3 * 2 * (1 + local)
        assert model(views, 0.05).item() == pytest.approx(np.mean(found), rel=1e-5)

    def test_the_teacher_gets_no_gradient_and_every_trained_part_of_the_student_one(self):
        model = distillation()
        model(crops(), 0.05).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not any(p.requires_grad for p in model.teacher.parameters())

    def test_the_teacher_is_never_in_training_mode(self):
        model = distillation(TINY_DINO)
        assert all(module.training for module in model.student.modules())
        assert not any(module.training for module in model.teacher.modules())
        outputs = [model.teacher(crops()[:2]) for _ in range(2)]
        assert torch.equal(*outputs)  # no path is dropped

    def test_bf16_keeps_the_centre_in_fp32(self):
        model = distillation()
        exact = model(crops(), 0.05).item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(crops(), 0.05).item() == pytest.approx(exact, rel=0.05)
        model.follow(0.5)
        assert model.center.dtype == torch.float32 and model.center.isfinite().all()


class TestFollow:
    def test_the_centre_moves_by_a_tenth_to_the_mean_output_of_each_step(self):
        model = distillation()
        expected = model.center.double().numpy().copy()
        for step in range(2):
            micro_batches = [crops(3, seed=2 * step), crops(1, seed=2 * step + 1)]
            rows = [output(model.teacher, v) for views in micro_batches for v in views[:2]]
            for views in micro_batches:
                model(views, 0.05)
            model.follow(0.7)
            expected = 0.9 * expected + 0.1 * np.concatenate(rows).mean(axis=0)
            np.testing.assert_allclose(model.center, expected, rtol=1e-5, atol=1e-6)

    def test_evaluation_leaves_no_trace_in_the_centre(self):
        moved = []
        for evaluated in (False, True):
            model = distillation()
            if evaluated:
                model.eval()(crops(seed=9), 0.05)
            model.train()(crops(), 0.05)
            model.follow(1.0)
            moved.append(model.center)
        assert torch.equal(*moved)

    def test_the_teacher_is_a_moving_average_of_the_student(self):
        model = distillation()
        model(crops(), 0.05)
        before = weights(model.teacher)
        student = weights(model.student)
        model.follow(0.75)
        assert model.teacher.state_dict().keys() == student.keys()
        for name, tensor in model.teacher.state_dict().items():
            expected = 0.75 * before[name] + 0.25 * student[name]
            torch.testing.assert_close(tensor, expected, msg=name)
        for name, tensor in model.student.state_dict().items():
            assert torch.equal(tensor, student[name])

    def test_they_start_as_one(self):
        model, _ = build(TINY_DINO)
        teacher = model.teacher.state_dict()
        for name, tensor in model.student.state_dict().items():
            assert torch.equal(tensor, teacher[name])
            assert tensor.data_ptr() != teacher[name].data_ptr()
        assert model.center.shape == (1, 24) and not model.center.any()


def cubic(distance, a=-0.75):
    """The kernel of bicubic interpolation."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


class TestPositions:
    @pytest.fixture
    def backbone(self):
        return Backbone(TINY_DINO)

    def test_at_the_size_they_were_made_for_they_are_the_parameter(self, backbone):
        assert backbone._positions(4, 4) is backbone.pos_embed

    def test_the_class_tokens_does_not_change(self, backbone):
        assert torch.equal(backbone._positions(2, 3)[:, 0], backbone.pos_embed[:, 0])

    @pytest.mark.parametrize("height, width", [(2, 2), (3, 2), (6, 5)])
    def test_others_are_sampled_where_the_release_samples_them(self, backbone, height, width):
        grid = backbone.pos_embed[0, 1:].detach().double().numpy().reshape(4, 4, 32)
        expected = np.zeros((height, width, 32))
        for y in range(height):
            for x in range(width):
                # A tenth of a patch more than there are, spread over the four.
                row = (y + 0.5) * 4 / (height + 0.1) - 0.5
                column = (x + 0.5) * 4 / (width + 0.1) - 0.5
                for r in range(math.floor(row) - 1, math.floor(row) + 3):
                    for c in range(math.floor(column) - 1, math.floor(column) + 3):
                        value = grid[min(max(r, 0), 3), min(max(c, 0), 3)]
                        expected[y, x] += value * cubic(row - r) * cubic(column - c)
        found = backbone._positions(height, width)
        assert found.shape == (1, 1 + height * width, 32)
        np.testing.assert_allclose(found[0, 1:].detach(), expected.reshape(-1, 32), atol=1e-6)

    def test_images_of_any_size_go_in_and_one_token_comes_out(self, backbone):
        for size in (16, 8, 24):
            assert backbone(torch.randn(2, 3, size, size)).shape == (2, 32)


def test_crops_of_one_size_go_through_the_backbone_together_and_come_out_in_order():
    model = distillation()
    seen = []
    model.student.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    views = crops()
    found = model.student(views)
    assert seen == [(6, 3, 16, 16), (6, 3, 8, 8)]
    expected = np.concatenate([output(model.student, crop) for crop in views])
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)


class TestHead:
    def test_the_last_layers_weights_have_their_length_apart(self):
        layer = WeightNormLinear(6, 4)
        layer.weight_g.data = torch.tensor([[1.0], [2.0], [0.5], [-1.0]])
        x = torch.randn(5, 6)
        for out, g, v in zip(layer(x).T, layer.weight_g, layer.weight_v, strict=True):
            torch.testing.assert_close(out, x @ (v * g / v.square().sum().sqrt()))

    def test_it_is_three_layers_and_a_unit_sphere(self):
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

    def test_its_first_weights(self):
        wide = replace(TINY_DINO, width=64, head_width=512, bottleneck=64, outputs=512)
        head = build(wide)[0].student.head
        for layer in (head.mlp[0], head.mlp[2], head.mlp[4]):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
            assert not layer.bias.any()
        assert (head.last_layer.weight_g == 1).all()
        assert 0.99 / 8 < head.last_layer.weight_v.abs().max() <= 1 / 8


def test_the_backbones_first_tokens_have_deviation_0_02():
    backbone = Backbone(replace(TINY_DINO, width=256))
    for tensor in (backbone.pos_embed, backbone.cls_token):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)


class TestAttention:
    @pytest.mark.parametrize("size, side", [(16, 4), (24, 6)])
    def test_it_is_the_class_tokens_in_the_last_block(self, size, side):
        backbone = distillation().teacher.backbone
        image = torch.randn(2, 3, size, size)
        found = backbone.last_attention(image)
        assert found.shape == (2, 2, side, side)
        kept = SimpleNamespace()
        last = backbone.blocks[-1]
        last.attn.qkv.register_forward_hook(lambda *call: setattr(kept, "qkv", call[-1]))
        backbone(image)
        for i in range(2):
            for head in range(2):
                channels = slice(16 * head, 16 * (head + 1))
                query = kept.qkv[i, 0, :32][channels]
                keys = kept.qkv[i, :, 32:64][:, channels]
                shares = (keys @ query / 4).softmax(dim=0)  # √16
                torch.testing.assert_close(found[i, head].flatten(), shares[1:])
        rest = 1 - found.sum(dim=(-2, -1))  # what the class token gives to itself
        assert (rest > 0).all() and (rest < 1).all()
