"""Validation: fixed draws for every run, standard error over passes, no effect on training."""

import math
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from dyt_wav2vec import evaluation
from dyt_wav2vec.evaluation import evaluate
from dyt_wav2vec.fairseq_plugin import Model
from dyt_wav2vec.trainer import Trainer

from .problem import CONFIG, OWN, before_update, pretrained, raw_bytes


@contextmanager
def recording(records):
    """Record the batches of validation and the masks that are drawn for them."""
    original_mask, original_prepare = Model.apply_mask, Trainer.prepare_sample

    def prepare_sample(self, sample):
        records.append(raw_bytes(sample))
        return original_prepare(self, sample)

    def apply_mask(self, *args, **options):
        x, mask = original_mask(self, *args, **options)
        if not self.training:
            records.append(raw_bytes(mask))
        return x, mask

    with (
        mock.patch.object(Model, "apply_mask", apply_mask),
        mock.patch.object(Trainer, "prepare_sample", prepare_sample),
    ):
        yield


def drawn(folder, speech, **changes):
    """Return the batches and masks of the validation of a run of two updates."""
    records = []
    short = {"updates": 2, "warmup_updates": 0, "eval_updates": 2, **changes}
    with recording(records):
        pretrained(folder, speech, replace(CONFIG, **short))
    return records


@pytest.fixture(scope="module")
def default(prepared, tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("default"), prepared)


@pytest.mark.parametrize(
    "changes",
    [{"norm": OWN}, {"seed": 4}, {"lr": 1e-5}, {"updates": 4, "micro_batches_per_update": 1}],
    ids=["arm", "seed", "rate", "length"],
)
def test_evaluate_draws_same_crops_and_masks_in_all_runs(prepared, default, tmp_path, changes):
    assert (
        drawn(tmp_path, prepared, **{"eval_updates": changes.get("updates", 2), **changes})
        == default
    )


def test_evaluate_draws_new_crops_and_masks_per_pass(default):
    batches, masks = default[::2], default[1::2]
    assert len(batches) == len(masks) == 2 * 3
    sources = {batch["net_input"]["source"][2] for batch in batches}
    assert len(sources) == 6
    assert len({raw for *_, raw in masks}) == 6


def test_evaluate_passes_do_not_depend_on_their_number(prepared, default, tmp_path):
    more = drawn(tmp_path, prepared, eval_passes=3)
    assert len(more) == 3 * len(default) / 2
    assert more[: len(default)] == default


def test_evaluate_uses_every_file_once_per_pass(default):
    ids = [np.frombuffer(batch["id"][2], dtype=np.int64).tolist() for batch in default[::2]]
    for one, other, last in (ids[:3], ids[3:]):
        assert sorted([*one, *other, *last]) == list(range(5))


@pytest.fixture(scope="module")
def measured(prepared, tmp_path_factory):
    """Results of two evaluations of one trainer, with other draws in between."""
    results = []

    def measure(trainer, samples):
        trainer.get_model().train()
        results.append(evaluate(trainer, 4))
        torch.rand(5)
        np.random.rand(5)
        results.append(evaluate(trainer, 4))
        assert trainer.get_model().training and trainer.criterion.training

    with before_update(2, measure):
        pretrained(tmp_path_factory.mktemp("run"), prepared, replace(CONFIG, updates=4))
    return results


def test_evaluate_does_not_depend_on_earlier_draws(measured):
    first, second = measured
    assert first == second


def test_evaluate_returns_mean_and_standard_error_over_passes(measured):
    metrics, passes = measured[0]
    assert len(set(passes)) == 4
    assert metrics["loss"] == pytest.approx(np.mean(passes), rel=1e-12)
    assert metrics["loss_se"] == pytest.approx(np.std(passes, ddof=1) / math.sqrt(4), rel=1e-12)


def test_evaluate_metrics_have_plausible_units(measured):
    metrics, _ = measured[0]
    assert list(metrics) == ["loss", "loss_se", "contrastive", "accuracy", "code_perplexity"]
    # Chance level of an untrained model with 6 candidates (the target and 5 distractors) is
    # log2(6) = 2.6 bits.
    assert 1.5 < metrics["contrastive"] < 5
    assert 0 < metrics["accuracy"] < 60
    assert 1 <= metrics["code_perplexity"] <= 12
    assert metrics["loss"] > metrics["contrastive"]


class StubCriterion(torch.nn.Module):
    """fairseq's criterion for samples that are what it would log, summed over masked steps."""

    def forward(self, model, sample):
        assert not (model.training or self.training or torch.is_grad_enabled())
        return None, sample["sample_size"], sample


def test_evaluate_sums_over_micro_batches_exactly(monkeypatch):
    """In nats: losses per masked step become bits; a pass is one number, whatever its batches."""
    names = ("id", "sample_size", "loss", "loss_0", "correct", "count", "code_perplexity")
    rows = [[(0, 10, 30, 20, 3, 10, 4), (1, 30, 60, 40, 5, 30, 8)], [(2, 40, 70, 50, 12, 40, 9)]]
    passes = [
        [dict(zip(names, (torch.tensor([row[0]]), *row[1:]), strict=True)) for row in one]
        for one in rows
    ]
    monkeypatch.setattr(evaluation, "validation_batches", lambda _, number: iter(passes[number]))
    model, started = torch.nn.Linear(1, 1), []
    trainer = SimpleNamespace(
        get_model=lambda: model,
        criterion=StubCriterion(),
        prepare_sample=lambda sample: sample,
        device=torch.device("cpu"),
    )
    metrics, losses = evaluate(trainer, 2, lambda: started.append(model.training))
    bits = [90 / 40 / math.log(2), 70 / 40 / math.log(2)]
    assert losses == pytest.approx(bits)
    assert metrics == pytest.approx(
        {
            "loss": sum(bits) / 2,
            "loss_se": abs(bits[0] - bits[1]) / math.sqrt(2) / math.sqrt(2),
            "contrastive": (60 / 40 + 50 / 40) / 2 / math.log(2),
            "accuracy": 100 * 20 / 80,
            "code_perplexity": (4 + 8 + 9) / 3,
        }
    )
    assert started == [False, False] and model.training and trainer.criterion.training


def test_passes_have_the_same_micro_batches_in_every_run(monkeypatch):
    """Those of one seed, in their order, without the empty ones that fill up a process."""
    options = {}
    shuffles, stopped = [], []
    iterator = SimpleNamespace(
        next_epoch_itr=lambda shuffle: shuffles.append(shuffle) or [{"id": 1}, {}, {"id": 2}]
    )

    def get_batch_iterator(**given):
        options.update(given)
        return iterator

    task = SimpleNamespace(get_batch_iterator=get_batch_iterator, dataset=lambda split: split)
    dataset = SimpleNamespace(
        max_tokens_valid=5, required_batch_size_multiple=8, num_workers=0, data_buffer_size=3
    )
    trainer = SimpleNamespace(
        cfg=SimpleNamespace(dataset=dataset),
        task=task,
        data_parallel_world_size=4,
        data_parallel_rank=2,
    )
    monkeypatch.setattr(evaluation, "stop_loading", stopped.append)
    assert list(evaluation.validation_batches(trainer, 6)) == [{"id": 1}, {"id": 2}]
    assert (shuffles, stopped) == ([False], [iterator])
    assert options == {
        "dataset": "valid",
        "max_tokens": 5,
        "required_batch_size_multiple": 8,
        "seed": 0,
        "num_shards": 4,
        "shard_id": 2,
        "num_workers": 0,
        "epoch": 7,
        "data_buffer_size": 3,
        "disable_iterator_cache": True,
    }


def test_evaluate_matches_fairseqs_valid_step_with_same_draws(prepared, tmp_path):
    """Compare with fairseq's ``valid_step`` and meters for the batches of a pass."""
    from fairseq.logging import metrics

    from matched.training import reseed

    results = []

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
        with metrics.aggregate(new_root=True) as logged:
            for sample in batches.next_epoch_itr(shuffle=False):
                reseed("evaluation", 0, *sample["id"].tolist())
                trainer.valid_step(sample)
        results.append((first, logged["loss"].avg))

    with before_update(2, compare):
        pretrained(tmp_path, prepared, replace(CONFIG, updates=4))
    ((ours, fairseqs),) = results
    assert ours == pytest.approx(float(fairseqs), rel=1e-6)


def test_eval_updates_do_not_change_training(prepared, uninterrupted, tmp_path):
    run = pretrained(tmp_path, prepared, replace(CONFIG, eval_updates=1, eval_passes=3))
    assert list(run.evaluations) == [1, 2, 3, 4, 5, 6, 7]
    assert run.steps == uninterrupted.steps
    assert raw_bytes(run.state["model"]) == raw_bytes(uninterrupted.state["model"])


def test_best_evaluation_has_the_lowest_loss(prepared, tmp_path):
    run = pretrained(tmp_path, prepared, replace(CONFIG, eval_updates=1, lr=0.02))
    best = min(run.evaluations, key=lambda step: run.evaluations[step]["loss"])
    assert run.outcome.best == {**run.evaluations[best], "step": best}
    assert run.outcome.metrics == run.evaluations[7]
    assert np.mean(run.outcome.details["loss_of_passes"]) == pytest.approx(
        run.outcome.metrics["loss"], rel=1e-12
    )
