"""Validation: the same draws for every run, passes with an error, and no trace in the training."""

import math
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

from dyt_wav2vec.evaluation import evaluate
from dyt_wav2vec.registration import Model
from dyt_wav2vec.trainer import Trainer

from .problem import CONFIG, OWN, before_update, bits, pretrained


@contextmanager
def drawing(seen):
    """Note what validation gives the network, and the masks that it draws then."""
    masked, prepared = Model.apply_mask, Trainer.prepared

    def noted(self, sample):
        seen.append(bits(sample))
        return prepared(self, sample)

    def apply_mask(self, *given, **more):
        x, mask = masked(self, *given, **more)
        if not self.training:
            seen.append(bits(mask))
        return x, mask

    with (
        mock.patch.object(Model, "apply_mask", apply_mask),
        mock.patch.object(Trainer, "prepared", noted),
    ):
        yield


def drawn(folder, speech, **changes):
    """What the validation of a run of two updates draws."""
    seen = []
    short = {"updates": 2, "warmup_updates": 0, "eval_updates": 2, **changes}
    with drawing(seen):
        pretrained(folder, speech, replace(CONFIG, **short))
    return seen


@pytest.fixture(scope="module")
def usual(prepared, tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("usual"), prepared)


@pytest.mark.parametrize(
    "changes",
    [{"norm": OWN}, {"seed": 4}, {"lr": 1e-5}, {"updates": 4, "shards": 1}],
    ids=["arm", "seed", "rate", "length"],
)
def test_all_runs_are_given_the_same_crops_and_masks(prepared, usual, tmp_path, changes):
    assert (
        drawn(tmp_path, prepared, **{"eval_updates": changes.get("updates", 2), **changes}) == usual
    )


def test_every_pass_has_crops_and_masks_of_its_own(usual):
    batches, masks = usual[::2], usual[1::2]
    assert len(batches) == len(masks) == 2 * 3
    sources = {batch["net_input"]["source"][2] for batch in batches}
    assert len(sources) == 6
    assert len({raw for *_, raw in masks}) == 6


def test_more_passes_begin_with_those_of_fewer(prepared, usual, tmp_path):
    more = drawn(tmp_path, prepared, eval_passes=3)
    assert len(more) == 3 * len(usual) / 2
    assert more[: len(usual)] == usual


def test_every_file_is_seen_once_in_each_pass(usual):
    ids = [np.frombuffer(batch["id"][2], dtype=np.int64).tolist() for batch in usual[::2]]
    for one, other, last in (ids[:3], ids[3:]):
        assert sorted([*one, *other, *last]) == list(range(5))


@pytest.fixture(scope="module")
def measured(prepared, tmp_path_factory):
    """What one trainer measures, twice, with other things drawn in between; and its losses."""
    found = []

    def measure(trainer, samples):
        trainer.get_model().train()
        found.append(evaluate(trainer, 4))
        torch.rand(5)
        np.random.rand(5)
        found.append(evaluate(trainer, 4))
        assert trainer.get_model().training and trainer.criterion.training

    with before_update(2, measure):
        pretrained(tmp_path_factory.mktemp("run"), prepared, replace(CONFIG, updates=4))
    return found


def test_it_does_not_depend_on_what_was_drawn_before(measured):
    first, second = measured
    assert first == second


def test_the_loss_is_a_mean_over_passes_and_has_its_error(measured):
    metrics, passes = measured[0]
    assert len(set(passes)) == 4
    assert metrics["loss"] == pytest.approx(np.mean(passes), rel=1e-12)
    assert metrics["loss_se"] == pytest.approx(np.std(passes, ddof=1) / math.sqrt(4), rel=1e-12)


def test_the_metrics_are_told_in_units_of_their_own(measured):
    metrics, _ = measured[0]
    assert list(metrics) == ["loss", "loss_se", "contrastive", "accuracy", "code_perplexity"]
    # Untrained, one of 6 (the target and 5 distractors) is guessed: log2(6) = 2.6 bits.
    assert 1.5 < metrics["contrastive"] < 5
    assert 0 < metrics["accuracy"] < 60
    assert 1 <= metrics["code_perplexity"] <= 12
    assert metrics["loss"] > metrics["contrastive"]


def test_it_is_what_fairseqs_own_validation_gives_with_the_same_draws(prepared, tmp_path):
    """Its ``valid_step`` and meters, for the batches of a pass."""
    from fairseq.logging import metrics

    from matched.training import reseed

    found = []

    def compare(trainer, samples):
        _, (first, _) = evaluate(trainer, 2)
        batches = trainer.task.get_batch_iterator(
            dataset=trainer.task.dataset("valid"),
            max_tokens=CONFIG.max_tokens,
            required_batch_size_multiple=8,
            seed=0,
            epoch=1,
            disable_iterator_cache=True,
        )
        with metrics.aggregate(new_root=True) as told:
            for sample in batches.next_epoch_itr(shuffle=False):
                reseed("evaluation", 0, *sample["id"].tolist())
                trainer.valid_step(sample)
        found.append((first, told["loss"].avg))

    with before_update(2, compare):
        pretrained(tmp_path, prepared, replace(CONFIG, updates=4))
    ((ours, theirs),) = found
    assert ours == pytest.approx(float(theirs), rel=1e-6)


def test_how_often_it_is_done_leaves_the_training_unchanged(prepared, undisturbed, tmp_path):
    run = pretrained(tmp_path, prepared, replace(CONFIG, eval_updates=1, eval_passes=3))
    assert list(run.evaluations) == [1, 2, 3, 4, 5, 6, 7]
    assert run.steps == undisturbed.steps
    assert bits(run.state["model"]) == bits(undisturbed.state["model"])


def test_the_best_is_the_one_with_the_lowest_loss(prepared, tmp_path):
    run = pretrained(tmp_path, prepared, replace(CONFIG, eval_updates=1, lr=0.02))
    best = min(run.evaluations, key=lambda step: run.evaluations[step]["loss"])
    assert run.outcome.best == {**run.evaluations[best], "step": best}
    assert run.outcome.metrics == run.evaluations[7]
    assert np.mean(run.outcome.details["loss_of_passes"]) == pytest.approx(
        run.outcome.metrics["loss"], rel=1e-12
    )
