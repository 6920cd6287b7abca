"""What each vision task passes to the training loop."""

from dataclasses import replace

import pytest
import torch

from dyt import alphas
from dyt_vision import dino, finetuning, mae, norm_layers, supervised

from .tiny import DYT, TINY_DINO, TINY_MAE, TINY_TUNING, TINY_VIT, context


class Caught(Exception):
    """Ends a task where it would start to train."""


@pytest.fixture
def caught(monkeypatch, small, tmp_path):
    """Return a function that returns the learner of a task."""

    def catch(module, task, config):
        learners = []

        def fit(context, config, learner, device):
            learners.append(learner)
            raise Caught

        monkeypatch.setattr(module, "fit", fit)
        with pytest.raises(Caught):
            getattr(module, task)(context(tmp_path, data={"imagenet": small}), config)
        return learners[0]

    return catch


@pytest.mark.parametrize(
    ("module", "task", "config", "selection_metric"),
    [
        (supervised, "train", TINY_VIT, ("top1", "higher")),
        (norm_layers, "train_and_record", TINY_VIT, ("top1", "higher")),
        (finetuning, "train", TINY_TUNING, ("top1", "higher")),
        (mae, "pretrain", TINY_MAE, ("loss", "lower")),
        (dino, "pretrain", TINY_DINO, ("knn", "higher")),
    ],
    ids=lambda value: value.__name__ if hasattr(value, "__name__") else None,
)
def test_learner_selects_by_the_metric_of_its_task(caught, module, task, config, selection_metric):
    learner = caught(module, task, replace(config, norm=DYT))
    assert learner.selection_metric == selection_metric
    assert learner.alphas is alphas and set(learner.alphas(learner.model)) == set(learner.norms)


@pytest.mark.parametrize("module", [supervised, finetuning], ids=lambda module: module.__name__)
def test_ema_has_the_decay_of_the_config(caught, module):
    config = TINY_VIT if module is supervised else TINY_TUNING
    assert caught(module, "train", replace(config, ema_decay=0.97)).ema.decay == 0.97
    assert caught(module, "train", replace(config, ema_decay=None)).ema is None


def test_sgd_has_the_settings_of_the_config():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    config = replace(TINY_VIT, optimizer="sgd", momentum=0.8, lr=0.3, weight_decay=0.02)
    sgd = supervised.make_optimizer(model, config)
    assert type(sgd) is torch.optim.SGD
    settings = {
        (group["lr"], group["momentum"], group["weight_decay"]): len(group["params"])
        for group in sgd.param_groups
    }
    assert settings == {(0.3, 0.8, 0.0): 3, (0.3, 0.8, 0.02): 1}


def test_mixup_or_cutmix_alone_gives_soft_labels():
    for mixup, cutmix, soft in ((0.1, 0.0, True), (0.0, 0.1, True), (0.0, 0.0, False)):
        config = replace(TINY_VIT, mixup=mixup, cutmix=cutmix)
        assert supervised._uses_mixup(config) == soft
