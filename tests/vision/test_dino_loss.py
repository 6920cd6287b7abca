"""DINO's loss, center and teacher update, derived a second time: loops over pairs of crops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dyt_vision.dino import build
from dyt_vision.dino_teacher import update_ema

from .dino_models import NO_DROP_PATH, crops, distillation, output
from .tiny import ARMS, TINY_DINO, weights


def softmax(row, temperature):
    powers = np.exp(row / temperature - np.max(row / temperature))
    return powers / powers.sum()


class TestLoss:
    @pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
    @pytest.mark.parametrize("local", [0, 2])
    def test_loss_is_cross_entropy_over_pairs_of_different_crops(self, norm, local):
        model = distillation(replace(NO_DROP_PATH, norm=norm, local_crops=local))
        views = crops(local=local)
        center = model.center.double().numpy()
        expected = []
        for i, global_crop in enumerate(views[:2]):
            for j, crop in enumerate(views):
                if i == j:
                    continue
                teachers, students = output(model.teacher, global_crop), output(model.student, crop)
                for teacher, student in zip(teachers, students, strict=True):
                    target = softmax(teacher - center[0], 0.05)
                    expected.append(-(target * np.log(softmax(student, 0.1))).sum())
        assert len(expected) == 3 * 2 * (1 + local)
        assert model(views, 0.05).item() == pytest.approx(np.mean(expected), rel=1e-5)

    def test_only_the_student_gets_gradients(self):
        model = distillation()
        model(crops(), 0.05).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not any(p.requires_grad for p in model.teacher.parameters())


class TestCenter:
    def test_center_is_a_moving_average_of_step_means(self):
        model = distillation()
        expected = model.center.double().numpy().copy()
        for step in range(2):
            micro_batches = [crops(3, seed=2 * step), crops(1, seed=2 * step + 1)]
            rows = [output(model.teacher, v) for views in micro_batches for v in views[:2]]
            for views in micro_batches:
                model(views, 0.05)
            model.update_teacher(0.7)
            model.update_center()
            expected = 0.9 * expected + 0.1 * np.concatenate(rows).mean(axis=0)
            np.testing.assert_allclose(model.center, expected, rtol=1e-5, atol=1e-6)

    def test_evaluation_does_not_change_the_center(self):
        centers = []
        for evaluated in (False, True):
            model = distillation()
            if evaluated:
                model.eval()(crops(seed=9), 0.05)
            model.train()(crops(), 0.05)
            model.update_center()
            centers.append(model.center)
        assert torch.equal(*centers)

    def test_center_stays_in_fp32_under_bf16_autocast(self):
        model = distillation()
        exact = model(crops(), 0.05).item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(crops(), 0.05).item() == pytest.approx(exact, rel=0.05)
        model.update_center()
        assert model.center.dtype == torch.float32 and model.center.isfinite().all()


class TestTeacher:
    def test_teacher_stays_in_evaluation_mode(self):
        model = distillation(TINY_DINO)
        assert all(module.training for module in model.student.modules())
        assert not any(module.training for module in model.teacher.modules())
        outputs = [model.teacher(crops()[:2]) for _ in range(2)]
        assert torch.equal(*outputs)  # no path is dropped

    def test_teacher_is_a_moving_average_of_the_student(self):
        model = distillation()
        model(crops(), 0.05)
        before = weights(model.teacher)
        student = weights(model.student)
        model.update_teacher(0.75)
        assert model.teacher.state_dict().keys() == student.keys()
        for name, tensor in model.teacher.state_dict().items():
            expected = 0.75 * before[name] + 0.25 * student[name]
            torch.testing.assert_close(tensor, expected, msg=name)
        for name, tensor in model.student.state_dict().items():
            assert torch.equal(tensor, student[name])

    def test_teacher_starts_as_a_copy_of_the_student(self):
        model, _ = build(TINY_DINO)
        teacher = model.teacher.state_dict()
        for name, tensor in model.student.state_dict().items():
            assert torch.equal(tensor, teacher[name])
            assert tensor.data_ptr() != teacher[name].data_ptr()
        assert model.center.shape == (1, 24) and not model.center.any()


def test_update_ema_copies_running_statistics():
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    for tensor in student.state_dict().values():
        tensor.fill_(3)
    update_ema(teacher, student, 0.9)
    assert teacher.running_mean.tolist() == [3, 3] and teacher.num_batches_tracked == 3
    torch.testing.assert_close(teacher.weight.data, torch.full((2,), 0.9 * 1 + 0.1 * 3))
