"""Tiny supervised runs from end to end: matched pairs, repeatability, loss and accuracy."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyt_vision.evaluation import Accuracy

from .tiny import (
    DYT,
    OWN,
    SMOKE,
    TINY_CONVNEXT,
    TINY_MIXER,
    TINY_VIT,
    context,
    learner,
    lines,
    train,
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return directory, outcome and fingerprint of the LN arm."""
    directory = tmp_path_factory.mktemp("own")
    return directory, *train(directory, replace(TINY_VIT, norm=OWN))


def test_arms_of_a_pair_have_equal_fingerprints(tmp_path, own):
    outcome, fingerprint = train(tmp_path, replace(TINY_VIT, norm=DYT))
    assert fingerprint == own[2]
    assert len(set(fingerprint["batches"])) == 4
    assert outcome.metrics != own[1].metrics


SHORT = replace(TINY_VIT, norm=OWN, labels_per_class=26)  # four steps


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Return the fingerprint of the LN arm on few images."""
    return train(tmp_path_factory.mktemp("short"), SHORT)[1]


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"seed": 1}, "weights"),
        ({"seed": 1}, "batches"),
        ({"mixup": 0.4}, "batches"),
        ({"erasing": 1.0}, "batches"),
        ({"crop_scale": (0.5, 1.0)}, "batches"),
        ({"labels_per_class": 27}, "batches"),
    ],
)
def test_fingerprint_changes_with_the_config(tmp_path, own, short, changes, part):
    other = train(tmp_path, replace(SHORT, **changes))[1]
    assert short["weights"] == own[2]["weights"]
    assert short[part] != other[part]


def test_repeated_runs_are_bit_identical(tmp_path, own):
    directory, outcome, _ = own
    again, _ = train(tmp_path, replace(TINY_VIT, norm=OWN), num_workers=1)
    assert again == outcome
    assert lines(tmp_path) == lines(directory)


def test_loss_for_soft_smoothed_and_hard_labels(monkeypatch, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 10))
    x, labels = torch.randn(4, 3), torch.tensor([1, 2, 3, 4])
    logits = model(x)

    def loss(target, **changes):
        config = replace(TINY_VIT, **changes)
        return learner(monkeypatch, tmp_path, config).loss(model, (x, target))

    soft = torch.softmax(torch.randn(4, 10), dim=1)
    plain = {"mixup": 0.0, "cutmix": 0.0}
    torch.testing.assert_close(loss(soft), F.cross_entropy(logits, soft))
    torch.testing.assert_close(
        loss(labels, **plain), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )
    torch.testing.assert_close(
        loss(labels, label_smoothing=0.3, **plain),
        F.cross_entropy(logits, labels, label_smoothing=0.3),
    )
    torch.testing.assert_close(
        loss(labels, label_smoothing=0.0, **plain), F.cross_entropy(logits, labels)
    )


def test_mixer_trains_with_gradient_clipping(original, tmp_path):
    config = replace(TINY_MIXER, data="imagenet", batch=4, micro_batch=2, norm=DYT)
    assert config.clip_norm == 1.0
    outcome, _ = train(tmp_path, config, data={"imagenet": original})
    assert (outcome.steps, outcome.diverged) == (2, False)


def test_convnext_trains(tmp_path):
    config = replace(TINY_CONVNEXT, norm=DYT, epochs=1, warmup_epochs=0.5, labels_per_class=26)
    outcome, _ = train(tmp_path, config)
    assert outcome.steps > 1 and not outcome.diverged


@pytest.mark.parametrize(
    "row, epochs, top1, top5",
    [("vit_b", 3, 20, 65), pytest.param("convnext_b", 2, 40, 85, marks=pytest.mark.slow)],
)
def test_dyt_learns_digits(tmp_path, row, epochs, top1, top5):
    config = replace(SMOKE[row].config, norm=DYT, epochs=epochs, warmup_epochs=0.5)
    outcome, _ = train(tmp_path, replace(config, mixup=0.0, ema_decay=0.9))
    assert not outcome.diverged
    assert outcome.metrics["top1"] > top1  # chance level is 10
    assert outcome.metrics["top5"] > top5  # chance level is 50
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[-1] < losses[0]


class Logits(nn.Module):
    """A model whose input is its logits, and which counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x[:, 0, 0]


class TestAccuracy:
    COUNT = 11

    def metrics(self, directory, rank=0, world_size=1, eval_batch=4, model=None):
        config = replace(TINY_VIT, eval_batch=eval_batch)
        where = context(directory, rank=rank, world_size=world_size)
        accuracy = Accuracy(self.items(), config, where, torch.device("cpu"))
        return accuracy(model or Logits())

    def items(self):
        logits = torch.randn(self.COUNT, 10, generator=torch.Generator().manual_seed(0))
        labels = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
        for i in (0, 3, 5, 10):
            logits[i, labels[i]] = 9.0
        return [(row[None, None], label) for row, label in zip(logits, labels, strict=True)]

    def test_accuracy_matches_a_direct_computation(self, tmp_path):
        top1 = top5 = loss = 0.0
        for image, label in self.items():
            row = image.flatten().tolist()
            better = sum(value > row[label] for value in row)
            top1 += better < 1
            top5 += better < 5
            loss += torch.logsumexp(image.flatten(), 0).item() - row[label]
        metrics = self.metrics(tmp_path)
        assert 4 <= top1 < top5 < self.COUNT
        assert metrics["top1"] == pytest.approx(100 * top1 / self.COUNT)
        assert metrics["top5"] == pytest.approx(100 * top5 / self.COUNT)
        assert metrics["loss"] == pytest.approx(loss / self.COUNT, rel=1e-5)

    @pytest.mark.parametrize("world", [2, 3, 4])
    def test_accuracy_over_several_processes_adds_up(self, tmp_path, world):
        counts = [len(range(rank, self.COUNT, world)) for rank in range(world)]
        shares = [self.metrics(tmp_path, rank, world) for rank in range(world)]
        assert sum(counts) == self.COUNT
        assert len({share["loss"] for share in shares}) == world
        for name, value in self.metrics(tmp_path).items():
            total = sum(n * share[name] for n, share in zip(counts, shares, strict=True))
            assert total / self.COUNT == pytest.approx(value, rel=1e-5)

    @pytest.mark.parametrize("world, eval_batch", [(2, 1), (2, 5), (3, 1), (4, 2)])
    def test_all_processes_call_the_model_equally_often(self, tmp_path, world, eval_batch):
        models = [Logits() for _ in range(world)]
        for rank, model in enumerate(models):
            self.metrics(tmp_path, rank, world, eval_batch, model)
        share = -(-self.COUNT // world)
        assert [model.calls for model in models] == [-(-share // eval_batch)] * world

    def test_random_numbers_of_an_evaluation_depend_on_the_seed_alone(self, tmp_path):
        class Noisy(Logits):
            def forward(self, x):
                return super().forward(x) + torch.rand(10)

        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(self.metrics(tmp_path, model=Noisy()))
        assert found[0] == found[1] != self.metrics(tmp_path)

    def test_accuracy_does_not_depend_on_the_batch_size(self, tmp_path):
        one, other = (self.metrics(tmp_path, eval_batch=size) for size in (1, 100))
        assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"norm": "dyt"}, "norm is 'dyt'; expected a dyt.Norm"),
        ({"erasing": 1.5}, "erasing is 1.5; expected 0 to 1"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1; expected 0 to 1"),
        ({"drop_path": 1.0}, "drop_path is 1.0; expected 0 or more, below 1"),
        ({"crop_ratio": 0.0}, "crop_ratio is 0.0; expected above 0, at most 1"),
        ({"mixup": -1.0}, "mixup -1.0, cutmix 1.0: expected 0 or more"),
        ({"epochs": 0}, "epochs is 0; expected a whole number"),
    ],
)
def test_supervised_refuses_a_setting_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY_VIT, **changes)


def test_batch_larger_than_the_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a batch of 2048 is more than the 1437 samples"):
        train(tmp_path, replace(TINY_VIT, batch=2048))
