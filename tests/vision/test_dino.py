"""DINO's pretraining from end to end: runs, schedules, clipping, k-NN evaluation, picture."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dyt_vision import dino, dino_evaluation, image_data, transforms
from dyt_vision.config import DINO
from matched.training import StepInfo, reseed

from .tiny import (
    DYT,
    TINY_DINO,
    assert_resume_is_bit_identical,
    context,
    fingerprint,
    held_out_images,
    lines,
    run,
)

CPU = torch.device("cpu")
PAPER = DINO(
    data="imagenet",
    epochs=400,
    batch=8,
    micro_batch=8,
    lr=1e-3,
    weight_decay=0.04,
    final_weight_decay=0.4,
)


@pytest.fixture(scope="module")
def own(small, tmp_path_factory):
    """Return outcome and directory of the LN arm."""
    return run(dino.pretrain, tmp_path_factory.mktemp("own"), TINY_DINO, images=small)


class TestRun:
    def test_pretrain_reports_knn_accuracy_and_writes_its_files(self, own):
        outcome, directory = own
        assert (outcome.steps, outcome.diverged, outcome.metrics.keys()) == (4, False, {"knn"})
        assert outcome.metrics["knn"] in range(0, 101, 10)  # of ten images
        assert {path.name for path in directory.iterdir()} == {
            "checkpoints",
            "metrics.jsonl",
            "performance.jsonl",
            "progress.json",
            "fingerprint.json",
            "pretrained.pth",
            "attention.png",
        }

    def test_arms_of_a_pair_have_equal_fingerprints(self, own, small, tmp_path):
        _, directory = run(dino.pretrain, tmp_path, replace(TINY_DINO, norm=DYT), images=small)
        assert fingerprint(directory) == fingerprint(own[1])
        assert len(set(fingerprint(directory)["batches"])) == 4
        assert lines(directory) != lines(own[1])

    @pytest.mark.parametrize(
        "changes", [{"seed": 1}, {"solarize": 1.0}, {"local_scale": (0.2, 0.25)}]
    )
    def test_fingerprint_changes_with_the_crops(self, own, small, tmp_path, changes):
        _, other = run(dino.pretrain, tmp_path, replace(TINY_DINO, **changes), images=small)
        assert fingerprint(other)["batches"] != fingerprint(own[1])["batches"]

    def test_resume_is_bit_identical(self, own, small, tmp_path, monkeypatch):
        assert_resume_is_bit_identical(monkeypatch, dino, tmp_path, TINY_DINO, own, images=small)

    def test_last_layer_is_frozen_in_the_first_epochs(self, small, tmp_path, monkeypatch):
        recorded = []
        fit = dino.fit

        def fit_and_record(context, config, learner, device):
            head = learner.model.student.head

            def loss(model, batch):
                recorded.append(
                    [p.detach().clone() for p in (head.last_layer.weight_v, head.mlp[0].weight)]
                )
                return learner.loss(model, batch)

            outcome = fit(context, config, replace(learner, loss=loss), device)
            recorded.append([head.last_layer.weight_v.detach().clone()])
            return outcome

        monkeypatch.setattr(dino, "fit", fit_and_record)
        config = replace(TINY_DINO, micro_batch=8)
        run(dino.pretrain, tmp_path, config, images=small)
        # Before each of four steps, two in each epoch, and at the end.
        last = [step[0] for step in recorded]
        assert torch.equal(last[0], last[1]) and torch.equal(last[1], last[2])
        assert not torch.equal(last[2], last[3]) and not torch.equal(last[3], last[4])
        assert not torch.equal(recorded[0][1], recorded[1][1])


class TestSchedules:
    def at(self, step, config=PAPER, steps=400):
        """Return the schedules' values at a step, with one step in each epoch."""
        momenta, center_updates = [], []
        model = SimpleNamespace(
            update_teacher=momenta.append, update_center=lambda: center_updates.append(step)
        )
        groups = [{"weight_decay": None}, {"weight_decay": 0.0}]
        schedules = dino.Schedules(model, SimpleNamespace(param_groups=groups), config)
        step_info = StepInfo(step=step, steps=steps, steps_per_epoch=1)
        schedules.before_step(step_info)
        schedules.after_step(step_info)
        assert groups[1] == {"weight_decay": 0.0}
        assert center_updates == [step]
        return SimpleNamespace(
            decay=groups[0]["weight_decay"],
            momentum=momenta[0],
            temperature=schedules.teacher_temperature,
        )

    # cos(π/4) = 0.7071: at a quarter of the steps, 14.6 % of the distance is covered.
    @pytest.mark.parametrize(
        "step, decay, momentum",
        [
            (0, 0.04, 0.996),
            (100, 0.04 + 0.36 * 0.14644661, 0.996 + 0.004 * 0.14644661),
            (200, 0.22, 0.998),
            (400, 0.4, 1.0),
        ],
    )
    def test_weight_decay_and_teacher_momentum_follow_a_cosine(self, step, decay, momentum):
        values = self.at(step)
        assert values.decay == pytest.approx(decay, rel=1e-6)
        assert values.momentum == pytest.approx(momentum, rel=1e-7)

    def test_teacher_temperature_warms_up_linearly(self):
        config = replace(PAPER, warmup_teacher_temperature_epochs=4)
        temperatures = [self.at(epoch, config).temperature for epoch in range(7)]
        assert temperatures == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07, 0.07])

    @pytest.mark.parametrize("epochs, first", [(0, 0.07), (1, 0.04)])
    def test_teacher_temperature_without_warmup(self, epochs, first):
        config = replace(PAPER, warmup_teacher_temperature_epochs=epochs)
        temperatures = [self.at(epoch, config).temperature for epoch in range(3)]
        assert temperatures == pytest.approx([first, 0.07, 0.07])

    def test_loss_uses_the_teacher_temperature_of_its_epoch(self, small, tmp_path, monkeypatch):
        temperatures = []
        forward = dino.SelfDistillation.forward

        def forward_and_record(self, crops, teacher_temperature):
            temperatures.append(teacher_temperature)
            return forward(self, crops, teacher_temperature)

        monkeypatch.setattr(dino.SelfDistillation, "forward", forward_and_record)
        run(dino.pretrain, tmp_path, TINY_DINO, images=small)
        assert temperatures == [0.04] * 4 + [0.07] * 4


class TestGradients:
    def gradients(self, config, epoch=5):
        """Return the student's gradients before and after the hook."""
        model, _ = dino.build(config)
        torch.manual_seed(0)
        for i, parameter in enumerate(model.student.parameters()):
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter) * 10.0 ** (i % 5 - 3)
        before = {n: p.grad.clone() for n, p in model.student.named_parameters() if p.requires_grad}
        schedules = dino.Schedules(model, dino.make_optimizer(model, config), config)
        schedules.on_gradients(StepInfo(step=epoch, steps=10, steps_per_epoch=1))
        return before, {n: p.grad for n, p in model.student.named_parameters()}

    def test_clip_each_clips_only_long_gradients(self):
        before, after = self.gradients(TINY_DINO)
        norms = {name: g.norm().item() for name, g in before.items()}
        assert any(n < 3 for n in norms.values()) and any(n > 3 for n in norms.values())
        for name, norm in norms.items():
            expected = before[name] if norm < 3 else before[name] * (3 / (norm + 1e-6))
            torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=0)

    def test_clip_each_none_does_not_clip(self):
        before, after = self.gradients(replace(TINY_DINO, clip_each=None))
        assert all(torch.equal(after[name], gradient) for name, gradient in before.items())

    @pytest.mark.parametrize("epoch, frozen", [(0, True), (2, True), (3, False)])
    def test_frozen_last_layer_has_no_gradient(self, epoch, frozen):
        _, after = self.gradients(replace(TINY_DINO, freeze_last_layer=3), epoch)
        none = {name for name, gradient in after.items() if gradient is None}
        last = {"head.last_layer.weight_v"} if frozen else set()
        assert none == {"head.last_layer.weight_g"} | last


def test_optimizer_decays_only_its_first_group():
    model, _ = dino.build(replace(TINY_DINO, norm=DYT))
    adamw = dino.make_optimizer(model, replace(TINY_DINO, weight_decay=0.04, betas=(0.9, 0.95)))
    decayed, free = adamw.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.04, 0.0)
    assert {p.ndim for p in free["params"]} == {1} and min(p.ndim for p in decayed["params"]) == 2
    optimized = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.parameters() if p.requires_grad}
    assert decayed["betas"] == (0.9, 0.95)


class PlaneImages:
    """Images whose first two pixels are a feature in the plane: the point at an angle."""

    def __init__(self, items):
        self.items, self.transform = items, None

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        angle, label = self.items[index]
        image = torch.zeros(3, 16, 16)
        image[0, 0, :2] = 5 * torch.tensor([math.cos(angle), math.sin(angle)])
        return image, label


class PlaneBackbone(torch.nn.Module):
    """Stand-in for the teacher's backbone: the features of ``PlaneImages``."""

    def forward(self, image):
        return image[:, 0, 0, :2]

    def last_attention(self, image):
        return torch.full((len(image), 2, 4, 4), 1 / 17)


def knn(directory, bank, held_out, rank=0, world_size=1, **changes):
    data = image_data.ImageSplits(
        train=PlaneImages(bank), held_out=PlaneImages(held_out), classes=3
    )
    where = context(directory, rank=rank, world_size=world_size)
    model = SimpleNamespace(teacher=SimpleNamespace(backbone=PlaneBackbone()))
    return dino_evaluation.KNNEvaluation(data, replace(TINY_DINO, **changes), where, CPU)(model)[
        "knn"
    ]


class TestKNNEvaluation:
    # Votes are exp(cosine / 0.07): exp(0.03 / 0.07) = 1.5 and exp(0.1 / 0.07) = 4.2.
    @pytest.mark.parametrize(
        "neighbours, other, winner", [(1, 0.97, 0), (3, 0.97, 1), (3, 0.9, 0), (99, 0.97, 1)]
    )
    def test_knn_votes_are_weighted_by_similarity(self, tmp_path, neighbours, other, winner):
        bank = [(0.0, 0), (math.acos(other), 1), (-math.acos(other), 1), (3.0, 2)]
        for label in range(3):
            accuracy = knn(tmp_path, bank, [(0.0, label)], neighbours=neighbours)
            assert accuracy == (100 if label == winner else 0)

    def test_knn_accuracy_is_in_percent_of_held_out_images(self, tmp_path):
        bank = [(0.0, 0), (1.0, 1), (2.0, 2)]
        held_out = [(0.1, 0), (0.9, 1), (1.9, 2), (2.1, 2), (0.0, 1)]
        assert knn(tmp_path, bank, held_out, neighbours=1) == 80

    def test_knn_does_not_count_padding(self, tmp_path):
        """The second of two processes has the second image, and the first one as padding."""
        held_out = [(0.0, 2), (0.0, 0), (0.0, 2)]
        assert knn(tmp_path, [(0.0, 0)] * 2, held_out, rank=1, world_size=2) == 100

    def test_random_numbers_of_an_evaluation_depend_on_the_seed_alone(self, tmp_path, monkeypatch):
        drawn = []

        def forward(self, image):
            drawn.append(torch.rand(2))
            return image[:, 0, 0, :2]

        monkeypatch.setattr(PlaneBackbone, "forward", forward)
        for seed in (1, 2):
            torch.manual_seed(seed)
            knn(tmp_path, [(0.0, 0)], [(0.0, 0)])
        assert torch.equal(torch.stack(drawn[:2]), torch.stack(drawn[2:]))

    def test_feature_bank_is_a_random_subset_without_augmentation(self, small):
        data = image_data.load(TINY_DINO, small, train=None, held_out=None)
        for size, expected in ((5, 5), (50000, 16)):
            bank = dino_evaluation.feature_bank(data.train, replace(TINY_DINO, bank=size))
            assert len(bank) == len(set(bank.indices)) == expected
            assert torch.equal(bank[0][0], bank[0][0]) and bank[0][0].shape == (3, 16, 16)
        reseed(7)
        assert dino_evaluation.feature_bank(data.train, replace(TINY_DINO, bank=5)).indices == [
            *bank.indices[:5]
        ]
        assert data.train.transform is None  # the training set is not changed


class TestPicture:
    def test_picture_shows_image_mean_attention_and_each_head(self, own, small):
        with Image.open(own[1] / "attention.png") as picture:
            assert picture.format == "PNG"
            # Three images; columns: image, mean, two heads; 96 pixels each, with a frame.
            assert picture.size == (4 * 98 + 2, 3 * 98 + 2)
            pixels = np.asarray(picture)
        held_out = held_out_images(TINY_DINO, small)
        for i in range(3):
            row = pixels[2 + 98 * i : 98 + 98 * i]
            image, *maps = (row[:, 2 + 98 * j : 98 + 98 * j] for j in range(4))
            exact = transforms.Denormalize(TINY_DINO)(held_out[i][0]).permute(1, 2, 0).numpy() * 255
            assert np.abs(image[::6, ::6] - exact).max() <= 0.5001
            for gray in maps:
                assert gray.max() == 255 and (gray == gray[..., :1]).all()
                squares = gray.reshape(4, 24, 4, 24, 3)
                assert (squares == squares[:, :1, :, :1]).all()
            assert len({gray.tobytes() for gray in maps}) == 3

    def test_attention_rows_are_scaled_to_maximum_1(self):
        maps = torch.rand(2, 3, 4, 4) * 0.01
        rows = dino_evaluation.attention_rows(torch.rand(2, 3, 16, 16), maps)
        assert rows.shape == (2, 5, 3, 16, 16)
        mean = maps.mean(dim=1)
        for shown, expected in zip(rows[:, 1:].unbind(1), (mean, *maps.unbind(1)), strict=True):
            scaled = expected / expected.amax(dim=(1, 2), keepdim=True)
            torch.testing.assert_close(shown[:, 2, ::4, ::4], scaled)
