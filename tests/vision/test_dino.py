"""Self-distillation from end to end: schedules, clipping, k-NN, pictures, matched runs."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dyt_vision import dino, images
from dyt_vision.config import DINO
from matched.training import StepInfo, reseed

from .tiny import DYT, TINY_DINO, context, cut_and_resumed, fingerprint, lines, run

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
    """Outcome and directory of the LN arm."""
    return run(dino.pretrain, tmp_path_factory.mktemp("own"), TINY_DINO, images=small)


class TestRun:
    def test_it_tells_the_teachers_accuracy(self, own):
        outcome, directory = own
        assert (outcome.steps, outcome.diverged, outcome.metrics.keys()) == (4, False, {"knn"})
        assert outcome.metrics["knn"] in range(0, 101, 10)  # of ten images
        assert {path.name for path in directory.iterdir()} == {
            "checkpoints",
            "metrics.jsonl",
            "progress.json",
            "fingerprint.json",
            "pretrained.pth",
            "attention.png",
        }

    def test_a_pair_has_one_fingerprint(self, own, small, tmp_path):
        _, directory = run(dino.pretrain, tmp_path, replace(TINY_DINO, norm=DYT), images=small)
        assert fingerprint(directory) == fingerprint(own[1])
        assert len(set(fingerprint(directory)["batches"])) == 4
        assert lines(directory) != lines(own[1])

    @pytest.mark.parametrize(
        "changes", [{"seed": 1}, {"solarize": 1.0}, {"local_scale": (0.2, 0.25)}]
    )
    def test_other_crops_have_another(self, own, small, tmp_path, changes):
        _, other = run(dino.pretrain, tmp_path, replace(TINY_DINO, **changes), images=small)
        assert fingerprint(other)["batches"] != fingerprint(own[1])["batches"]

    def test_cut_in_the_middle_it_ends_bit_identical(self, own, small, tmp_path, monkeypatch):
        cut_and_resumed(monkeypatch, dino, tmp_path, TINY_DINO, own, images=small)

    def test_the_last_layer_moves_only_after_its_epochs(self, small, tmp_path, monkeypatch):
        seen = []
        fit = dino.fit

        def watched(context, config, learner, device):
            head = learner.model.student.head

            def loss(model, batch):
                seen.append(
                    [p.detach().clone() for p in (head.last_layer.weight_v, head.mlp[0].weight)]
                )
                return learner.loss(model, batch)

            outcome = fit(context, config, replace(learner, loss=loss), device)
            seen.append([head.last_layer.weight_v.detach().clone()])
            return outcome

        monkeypatch.setattr(dino, "fit", watched)
        config = replace(TINY_DINO, micro_batch=8)
        run(dino.pretrain, tmp_path, config, images=small)
        last = [step[0] for step in seen]  # before each of four steps, two an epoch, and at the end
        assert torch.equal(last[0], last[1]) and torch.equal(last[1], last[2])
        assert not torch.equal(last[2], last[3]) and not torch.equal(last[3], last[4])
        assert not torch.equal(seen[0][1], seen[1][1])


class TestSchedule:
    def at(self, step, config=PAPER, steps=400):
        """What the schedule has set for a step of one epoch, and the momentum it asks for."""
        asked = []
        model = SimpleNamespace(follow=asked.append)
        groups = [{"weight_decay": None}, {"weight_decay": 0.0}]
        schedule = dino.Schedule(model, SimpleNamespace(param_groups=groups), config)
        step_info = StepInfo(step=step, steps=steps, steps_per_epoch=1)
        schedule.before_step(step_info)
        schedule.after_step(step_info)
        assert groups[1] == {"weight_decay": 0.0}
        return SimpleNamespace(
            decay=groups[0]["weight_decay"],
            momentum=asked[0],
            temperature=schedule.teacher_temperature,
        )

    # cos(π/4) = 0.7071: a quarter of the way, 14.6 % of the distance is done.
    @pytest.mark.parametrize(
        "step, decay, momentum",
        [
            (0, 0.04, 0.996),
            (100, 0.04 + 0.36 * 0.14644661, 0.996 + 0.004 * 0.14644661),
            (200, 0.22, 0.998),
            (400, 0.4, 1.0),
        ],
    )
    def test_decay_and_momentum_grow_on_a_cosine(self, step, decay, momentum):
        found = self.at(step)
        assert found.decay == pytest.approx(decay, rel=1e-6)
        assert found.momentum == pytest.approx(momentum, rel=1e-7)

    def test_the_teachers_temperature_grows_linearly_and_stays(self):
        config = replace(PAPER, warmup_teacher_temperature_epochs=4)
        found = [self.at(epoch, config).temperature for epoch in range(7)]
        assert found == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07, 0.07])

    @pytest.mark.parametrize("epochs, first", [(0, 0.07), (1, 0.04)])
    def test_without_a_span_to_grow_over(self, epochs, first):
        config = replace(PAPER, warmup_teacher_temperature_epochs=epochs)
        found = [self.at(epoch, config).temperature for epoch in range(3)]
        assert found == pytest.approx([first, 0.07, 0.07])

    def test_the_loss_is_at_the_temperature_of_its_epoch(self, small, tmp_path, monkeypatch):
        seen = []
        forward = dino.SelfDistillation.forward

        def spied(self, crops, teacher_temperature):
            seen.append(teacher_temperature)
            return forward(self, crops, teacher_temperature)

        monkeypatch.setattr(dino.SelfDistillation, "forward", spied)
        run(dino.pretrain, tmp_path, TINY_DINO, images=small)
        assert seen == [0.04] * 4 + [0.07] * 4


class TestGradients:
    def gradients(self, config, epoch=5):
        """Those of the student before and after the hook."""
        model, _ = dino.build(config)
        torch.manual_seed(0)
        for i, parameter in enumerate(model.student.parameters()):
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter) * 10.0 ** (i % 5 - 3)
        before = {n: p.grad.clone() for n, p in model.student.named_parameters() if p.requires_grad}
        schedule = dino.Schedule(model, dino.optimizer(model, config), config)
        schedule.on_gradients(StepInfo(step=epoch, steps=10, steps_per_epoch=1))
        return before, {n: p.grad for n, p in model.student.named_parameters()}

    def test_each_parameters_own_is_shortened_and_no_other_touched(self):
        before, after = self.gradients(TINY_DINO)
        norms = {name: g.norm().item() for name, g in before.items()}
        assert any(n < 3 for n in norms.values()) and any(n > 3 for n in norms.values())
        for name, norm in norms.items():
            expected = before[name] if norm < 3 else before[name] * (3 / (norm + 1e-6))
            torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=0)

    def test_none_clips_nothing(self):
        before, after = self.gradients(replace(TINY_DINO, clip_each=None))
        assert all(torch.equal(after[name], gradient) for name, gradient in before.items())

    @pytest.mark.parametrize("epoch, frozen", [(0, True), (2, True), (3, False)])
    def test_the_last_layer_has_none_while_it_is_frozen(self, epoch, frozen):
        _, after = self.gradients(replace(TINY_DINO, freeze_last_layer=3), epoch)
        none = {name for name, gradient in after.items() if gradient is None}
        last = {"head.last_layer.weight_v"} if frozen else set()
        assert none == {"head.last_layer.weight_g"} | last


def test_the_first_group_holds_what_is_decayed():
    model, _ = dino.build(replace(TINY_DINO, norm=DYT))
    adamw = dino.optimizer(model, replace(TINY_DINO, weight_decay=0.04, betas=(0.9, 0.95)))
    decayed, free = adamw.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.04, 0.0)
    assert {p.ndim for p in free["params"]} == {1} and min(p.ndim for p in decayed["params"]) == 2
    held = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert decayed["betas"] == (0.9, 0.95)


class Places:
    """Images that say by their first pixels where in the plane their feature is."""

    def __init__(self, items):
        self.items, self.transform = items, None

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        angle, label = self.items[index]
        image = torch.zeros(3, 16, 16)
        image[0, 0, :2] = 5 * torch.tensor([math.cos(angle), math.sin(angle)])
        return image, label


class Plane(torch.nn.Module):
    """Takes the place of the teacher's backbone."""

    def forward(self, image):
        return image[:, 0, 0, :2]

    def last_attention(self, image):
        return torch.full((len(image), 2, 4, 4), 1 / 17)


def knn(directory, bank, held_out, rank=0, world_size=1, **changes):
    data = images.Images(train=Places(bank), held_out=Places(held_out), classes=3)
    where = context(directory, rank=rank, world_size=world_size)
    model = SimpleNamespace(teacher=SimpleNamespace(backbone=Plane()))
    return dino.Neighbours(data, replace(TINY_DINO, **changes), where, CPU)(model)["knn"]


class TestNeighbours:
    def near(self, cosine):
        return math.acos(cosine)

    # Votes are exp(cosine / 0.07): exp(0.03 / 0.07) = 1.5 and exp(0.1 / 0.07) = 4.2.
    @pytest.mark.parametrize(
        "neighbours, other, winner", [(1, 0.97, 0), (3, 0.97, 1), (3, 0.9, 0), (99, 0.97, 1)]
    )
    def test_a_vote_counts_by_how_near_it_is(self, tmp_path, neighbours, other, winner):
        bank = [(0.0, 0), (self.near(other), 1), (-self.near(other), 1), (3.0, 2)]
        for label in range(3):
            right = knn(tmp_path, bank, [(0.0, label)], neighbours=neighbours)
            assert right == (100 if label == winner else 0)

    def test_accuracy_is_in_percent_of_the_held_out_images(self, tmp_path):
        bank = [(0.0, 0), (1.0, 1), (2.0, 2)]
        held_out = [(0.1, 0), (0.9, 1), (1.9, 2), (2.1, 2), (0.0, 1)]
        assert knn(tmp_path, bank, held_out, neighbours=1) == 80

    def test_the_bank_is_some_of_the_training_images_as_held_out_ones_are_seen(self, small):
        data = images.load(TINY_DINO, small, train=None)
        for size, expected in ((5, 5), (50000, 16)):
            bank = dino._plain(data.train, replace(TINY_DINO, bank=size))
            assert len(bank) == len(set(bank.indices)) == expected
            assert torch.equal(bank[0][0], bank[0][0]) and bank[0][0].shape == (3, 16, 16)
        reseed(7)
        assert dino._plain(data.train, replace(TINY_DINO, bank=5)).indices == [*bank.indices[:5]]
        assert data.train.transform is None  # training goes on as it was


class TestPicture:
    def test_it_has_each_image_the_mean_attention_and_each_heads(self, own, small):
        with Image.open(own[1] / "attention.png") as picture:
            assert picture.format == "PNG"
            # Three of the first batch; image, mean and two heads; 96 pixels each, in a frame.
            assert picture.size == (4 * 98 + 2, 3 * 98 + 2)
            pixels = np.asarray(picture)
        held_out = images.load(TINY_DINO, small, train=None).held_out
        for i in range(3):
            row = pixels[2 + 98 * i : 98 + 98 * i]
            image, *maps = (row[:, 2 + 98 * j : 98 + 98 * j] for j in range(4))
            exact = images.Pixels(TINY_DINO)(held_out[i][0]).permute(1, 2, 0).numpy() * 255
            assert np.abs(image[::6, ::6] - exact).max() <= 0.5001
            for grey in maps:
                assert grey.max() == 255 and (grey == grey[..., :1]).all()
                squares = grey.reshape(4, 24, 4, 24, 3)
                assert (squares == squares[:, :1, :, :1]).all()
            assert len({grey.tobytes() for grey in maps}) == 3

    def test_maps_are_brightest_at_1_and_the_mean_is_of_the_heads(self):
        maps = torch.rand(2, 3, 4, 4) * 0.01
        rows = dino.attention_rows(torch.rand(2, 3, 16, 16), maps)
        assert rows.shape == (2, 5, 3, 16, 16)
        mean = maps.mean(dim=1)
        for shown, expected in zip(rows[:, 1:].unbind(1), (mean, *maps.unbind(1)), strict=True):
            scaled = expected / expected.amax(dim=(1, 2), keepdim=True)
            torch.testing.assert_close(shown[:, 2, ::4, ::4], scaled)
