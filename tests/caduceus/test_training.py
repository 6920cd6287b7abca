"""Chains of Caduceus: masked pretraining, conjoining, the recorded scan, resume."""

import json
from dataclasses import replace

import pytest
import torch

from dyt import Norm, alphas
from dyt_caduceus import finetuning as caduceus_finetuning
from dyt_caduceus import pretraining as caduceus_pretraining
from dyt_caduceus.config import FineTuning, Pretraining
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna import finetuning, pretraining
from dyt_hyenadna.classification import load_task
from dyt_hyenadna.tokenizer import PAD, reverse_complement

from ..hyenadna.chain import (
    ARMS,
    LENGTH,
    SHORT,
    TASK,
    assert_resume_is_bit_identical,
    context,
    fingerprint,
    learner,
    run,
)

NETWORK = CaduceusNetwork(width=8, layers=1, d_state=2, embedding_std=1.0)
PRETRAINING = Pretraining(
    **SHORT, network=NETWORK, length=LENGTH, steps=4, eval_steps=2, eval_samples=6, eval_batch=4
)
TUNING = FineTuning(
    **SHORT,
    network=NETWORK,
    task=TASK,
    max_length=LENGTH,
    split=1,
    train_samples=16,
    epochs=2,
    eval_batch=100,
)
PH = replace(NETWORK, variant="ph")


@pytest.fixture(scope="module")
def started(genome, tmp_path_factory):
    """Return the outcome and the directory of each arm's pretraining."""
    folder = tmp_path_factory.mktemp("pretraining")
    return {
        arm: run(
            caduceus_pretraining.pretrain,
            folder / arm,
            replace(PRETRAINING, norm=norm),
            genome=genome,
        )
        for arm, norm in ARMS.items()
    }


def made(monkeypatch, directory, genome, **changes):
    """Return the learner of a fine-tuning run."""
    config = replace(TUNING, **changes)
    task = caduceus_finetuning.train
    return learner(monkeypatch, finetuning, task, directory, config, benchmarks=genome)


def test_masked_pretraining_arms_share_masks_and_weights(started):
    prints = [fingerprint(directory) for _, directory in started.values()]
    assert prints[0] == prints[1] and len(prints[0]["batches"]) == 4


def test_pretraining_records_the_selective_scan(started):
    _, directory = started["LN"]
    assert json.loads((directory / "environment.json").read_text())["selective_scan"] == "torch"


def test_masked_targets_are_chosen_by_their_probability(monkeypatch, tmp_path, genome):
    config = replace(PRETRAINING, mask_probability=0.5)
    caught = learner(
        monkeypatch, pretraining, caduceus_pretraining.pretrain, tmp_path, config, genome=genome
    )
    targets = torch.stack([caught.dataset[i][1] for i in range(60)])
    assert (targets != PAD).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("arm", ARMS)
def test_backbone_has_the_pretrained_weights(monkeypatch, tmp_path, genome, started, arm):
    needs = {"benchmarks": genome, "pretrained": started[arm][1]}
    config = replace(TUNING, norm=ARMS[arm])
    caught = learner(monkeypatch, finetuning, caduceus_finetuning.train, tmp_path, config, **needs)
    expected = pretraining.read_pretrained(started[arm][1])
    state = caught.model.state_dict()
    assert set(state) - set(caught.inherited) == {"head.weight", "head.bias"}
    for name in caught.inherited:
        assert torch.equal(state[name], expected[name]), name
    assert any(name.endswith("alpha") for name in caught.inherited) == (arm == "DyT")


def test_calibrated_pretraining_fits_alpha_and_keeps_a_bias(monkeypatch, tmp_path, genome):
    config = replace(PRETRAINING, norm=Norm.dyt("calibrated"))
    caught = learner(
        monkeypatch, pretraining, caduceus_pretraining.pretrain, tmp_path, config, genome=genome
    )
    values = alphas(caught.model)
    assert values
    assert all(value != 0.5 for value in values.values())
    state = caught.model.state_dict()
    assert all(not state[f"{path}.bias"].any() for path in values)


def test_conjoin_evaluates_both_strands_and_trains_on_one(tmp_path, genome):
    where = context(tmp_path, needs={"benchmarks": genome})
    data = load_task(where, replace(TUNING, network=PH, conjoin=True, flip=0.5))
    assert data.train[0][0].shape == (LENGTH,)
    for dataset in (data.valid, data.test):
        strands = dataset[0][0]
        assert strands.shape == (2, LENGTH)
        assert torch.equal(reverse_complement(strands[0]), strands[1])


def test_conjoined_accuracy_is_that_of_mean_logits(monkeypatch, tmp_path, genome):
    caught = made(monkeypatch, tmp_path, genome, network=PH, conjoin=True)
    model = caught.model.eval()
    test = caught.evaluate.subsets[""].loader.dataset
    ids = torch.stack([test[i][0] for i in range(len(test))])
    labels = torch.tensor([test[i][1] for i in range(len(test))])
    with torch.no_grad():
        metrics = caught.evaluate(model)
        model.conjoin = False
        logits = (model(ids[:, 0]) + model(ids[:, 1])) / 2
    accuracy = 100 * (logits.argmax(1) == labels).double().mean().item()
    assert metrics["accuracy"] == pytest.approx(accuracy, abs=1e-9)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"conjoin": True}, 'expected the variant "ph"'),
        ({"network": PH, "conjoin": True, "flip_evaluation": True}, "expected at most one"),
    ],
)
def test_conjoin_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TUNING, **changes)


def test_mask_probability_out_of_range_is_refused():
    with pytest.raises(ValueError, match="mask_probability is 0; expected above 0"):
        replace(PRETRAINING, mask_probability=0)


def test_resumed_pretraining_is_bit_identical(monkeypatch, tmp_path, genome):
    config = replace(PRETRAINING, norm=ARMS["DyT"])
    task = caduceus_pretraining.pretrain
    assert_resume_is_bit_identical(monkeypatch, pretraining, task, tmp_path, config, genome=genome)


def test_resumed_fine_tuning_is_bit_identical(monkeypatch, tmp_path, genome, started):
    needs = {"benchmarks": genome, "pretrained": started["DyT"][1]}
    config = replace(TUNING, norm=ARMS["DyT"])
    task = caduceus_finetuning.train
    assert_resume_is_bit_identical(monkeypatch, finetuning, task, tmp_path, config, **needs)
