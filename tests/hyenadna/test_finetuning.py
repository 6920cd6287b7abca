"""Fine-tuning of HyenaDNA: splits, pretrained weights, the reported epoch, resume."""

import json
from dataclasses import replace

import pytest
import torch

from dyt_hyenadna import finetuning, pretraining, synthetic_genome
from dyt_hyenadna.benchmark_files import PACK_FOLDER, pack, read_packed
from dyt_hyenadna.classification import AccuracyEvaluation, TaskData, load_task, split_indices
from dyt_hyenadna.config import SPLIT_SEEDS
from dyt_hyenadna.genomic_benchmarks import TASKS
from dyt_hyenadna.tokenizer import PAD, UNK
from matched.training.batches import seeded_batch
from matched.training.seeding import generator

from ..messages import refused
from .chain import (
    ARMS,
    NETWORK,
    PRETRAINING,
    TASK,
    TUNING,
    assert_resume_is_bit_identical,
    context,
    fingerprint,
    learner,
    run,
)


@pytest.fixture(scope="module")
def started(genome, tmp_path_factory):
    """Return the directory of each arm's pretraining."""
    folder = tmp_path_factory.mktemp("pretraining")
    return {
        arm: run(
            pretraining.pretrain, folder / arm, replace(PRETRAINING, norm=norm), genome=genome
        )[1]
        for arm, norm in ARMS.items()
    }


def made(monkeypatch, directory, genome, start=None, **changes):
    """Return the learner of a run."""
    needs = {"benchmarks": genome} | ({"pretrained": start} if start else {})
    config = replace(TUNING, **changes)
    return learner(monkeypatch, finetuning, finetuning.train, directory, config, **needs)


@pytest.mark.parametrize("arm", ARMS)
def test_backbone_has_the_pretrained_weights(monkeypatch, tmp_path, genome, started, arm):
    """α included, which upstream's loader drops."""
    norm = ARMS[arm]
    caught = made(monkeypatch, tmp_path, genome, started[arm], norm=norm)
    expected = pretraining.read_pretrained(started[arm])
    state = caught.model.state_dict()
    inherited = {name for name in state if name.startswith("backbone.")}
    assert inherited == set(caught.inherited) == set(state) - {"head.weight", "head.bias"}
    for name in inherited:
        assert torch.equal(state[name], expected[name]), name
    assert any(name.endswith("alpha") for name in inherited) == (arm == "DyT")


def test_pretrained_weights_of_the_other_arm_are_refused(tmp_path, genome, started):
    where = context(tmp_path, needs={"benchmarks": genome, "pretrained": started["LN"]})
    with pytest.raises(ValueError, match="alpha is missing in it"):
        finetuning.train(where, replace(TUNING, norm=ARMS["DyT"]))


def test_pretrained_weights_of_another_width_are_refused(tmp_path, genome, started):
    where = context(tmp_path, needs={"benchmarks": genome, "pretrained": started["LN"]})
    with pytest.raises(ValueError, match=r"keys differ, the first: .*Nothing was loaded"):
        finetuning.train(where, replace(TUNING, network=replace(NETWORK, width=16)))


def test_missing_pretrained_file_is_explained(tmp_path):
    assert refused(pretraining.read_pretrained, tmp_path).endswith(
        f". The pretraining has ended: delete {tmp_path / 'result.json'} and submit again, which "
        "recreates the file from the last checkpoint"
    )


def test_fine_tuning_of_a_diverged_pretraining_diverges(tmp_path, genome):
    start = tmp_path / "start"
    start.mkdir()
    (start / "result.json").write_text(json.dumps({"outcome": "diverged"}))
    outcome, _ = run(
        finetuning.train, tmp_path / "run", TUNING, benchmarks=genome, pretrained=start
    )
    assert outcome.diverged and outcome.steps == 0


def test_fine_tuning_needs_prepared_tasks(tmp_path):
    assert refused(finetuning.train, context(tmp_path), TUNING) == (
        'fine-tuning needs a preparation of the tasks under the name "benchmarks"'
    )


def test_unknown_task_is_refused(tmp_path, genome):
    where = context(tmp_path, needs={"benchmarks": genome})
    with pytest.raises(ValueError, match=r"there is no packed task .*human_worms"):
        finetuning.train(where, replace(TUNING, task="human_worms"))
    config = replace(TUNING, task="human_worms", max_length=None)
    assert refused(finetuning.train, where, config) == (
        "max_length is None and task 'human_worms'; set it, or name a task of GenomicBenchmarks: "
        f"{', '.join(TASKS)}"
    )


@pytest.mark.parametrize("length", [35, None])
def test_sequences_longer_than_the_filters_are_refused(length):
    with pytest.raises(ValueError, match=r"max_length is \d+, and the filters cover 34 positions"):
        replace(TUNING, max_length=length)


def test_splits_are_disjoint_cover_all_and_differ_by_seed():
    found = set()
    for split in SPLIT_SEEDS:
        train, valid = split_indices(100, replace(TUNING, split=split, train_samples=None))
        assert len(valid) == 10 and sorted(train + valid) == list(range(100))
        found.add(tuple(valid))
    assert len(found) == 5


def test_train_samples_are_the_first_outside_of_the_validation_set():
    every, valid = split_indices(47, replace(TUNING, split=1, train_samples=None))
    assert len(valid) == 5  # 10 %, rounded
    assert split_indices(47, replace(TUNING, split=1, train_samples=16)) == (every[:16], valid)


def test_split_does_not_depend_on_norm_and_seed():
    one = split_indices(50, TUNING)
    assert one == split_indices(50, replace(TUNING, norm=ARMS["DyT"], seed=9))
    assert len(one[0]) == TUNING.train_samples


def test_without_split_all_training_sequences_are_used(tmp_path, genome):
    where = context(tmp_path, needs={"benchmarks": genome})
    data = load_task(where, replace(TUNING, split=None, train_samples=None))
    assert data.valid is None and len(data.train) == 960 and len(data.test) == 480


def test_split_of_too_few_sequences_is_refused():
    assert refused(split_indices, 2, TUNING) == (
        f"{TASK} has 2 training sequences, too few for a split into training and validation"
    )
    assert split_indices(2, replace(TUNING, split=None))[1] == []


def test_split_is_drawn_from_its_own_seed():
    order = torch.randperm(20, generator=generator(3, "split")).tolist()
    assert split_indices(20, replace(TUNING, split=3, train_samples=None)) == (order[2:], order[:2])
    first = torch.randperm(20, generator=generator(0, "split")).tolist()
    assert split_indices(20, replace(TUNING, split=None, train_samples=None)) == (first, [])


def test_task_of_genomic_benchmarks_has_its_own_length(monkeypatch, tmp_path, genome):
    network = replace(NETWORK, max_length=202)
    where = context(tmp_path, needs={"benchmarks": genome})
    data = load_task(where, replace(TUNING, network=network, max_length=None))
    assert data.train[0][0].shape == data.test[0][0].shape == (200,)
    assert data.classes == 2 and len(data.train[0]) == 2


def test_training_flips_and_evaluation_does_not(tmp_path, genome):
    where = context(tmp_path, needs={"benchmarks": genome})

    def differing(dataset):
        """Number of sequences that two readings have in different strands."""
        return sum(not torch.equal(dataset[i][0], dataset[i][0]) for i in range(16))

    data = load_task(where, TUNING)
    assert differing(data.train) > 0
    assert differing(data.valid) == differing(data.test) == 0
    official = load_task(where, replace(TUNING, flip_evaluation=True))
    assert differing(official.test) > 0


def test_upper_case_false_reads_lower_case_as_unknown(tmp_path, genome):
    packed = read_packed(genome, TASK)
    marked = {
        split: part._replace(letters=part.letters | 0x20) for split, part in packed.splits.items()
    }
    (tmp_path / PACK_FOLDER).mkdir()
    pack(replace(packed, splits=marked), tmp_path / PACK_FOLDER / f"{TASK}.npz")
    where = context(tmp_path, needs={"benchmarks": tmp_path})
    assert UNK not in load_task(where, TUNING).test[0][0]
    data = load_task(where, replace(TUNING, upper_case=False))
    for dataset in (data.train, data.valid, data.test):
        assert set(dataset[0][0].tolist()) <= {PAD, UNK}


def test_best_validation_epoch_gives_the_test_accuracy(tmp_path, genome, started):
    outcome, folder = run(
        finetuning.train, tmp_path / "run", TUNING, benchmarks=genome, pretrained=started["LN"]
    )
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in logged if "val_accuracy" in line.get("evaluation", line)]
    epochs = [line.get("evaluation", line) for line in epochs]
    best = max(epochs, key=lambda epoch: epoch["val_accuracy"])
    assert len(epochs) == 2
    assert outcome.metrics["accuracy"] == best["accuracy"]
    assert outcome.metrics["last_accuracy"] == epochs[-1]["accuracy"]


def test_best_epoch_of_validation_is_chosen_over_best_test():
    from matched.task import Outcome

    outcome = Outcome(
        metrics={"accuracy": 90.0, "val_accuracy": 70.0},
        steps=4,
        best={"accuracy": 80.0, "val_accuracy": 75.0, "step": 2},
    )

    class Data:
        checksum = "abc"

    chosen = finetuning.at_best_epoch(outcome, Data)
    assert chosen.metrics == {"accuracy": 80.0, "val_accuracy": 75.0, "last_accuracy": 90.0}
    assert (chosen.details, chosen.steps) == ({"test_checksum": "abc"}, 4)
    diverged = finetuning.at_best_epoch(replace(outcome, diverged=True), Data)
    assert diverged.metrics == {"accuracy": 80.0, "val_accuracy": 75.0} and diverged.diverged
    none = finetuning.at_best_epoch(Outcome(metrics={}, diverged=True, steps=1), Data)
    assert none.metrics == {} and none.details == {"test_checksum": "abc"}


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("strands", [1, 2])
def test_accuracies_are_those_of_a_direct_computation(tmp_path, rank, world_size, strands):
    """With a model whose logits are its input, or the first strand's minus the other's."""
    logits = torch.randn(7, strands, 3, generator=torch.Generator().manual_seed(0))
    labels = [0, 1, 2, 0, 1, 2, 0]
    items = list(zip(logits.squeeze(1), labels, strict=True))
    sets = {"": items, "val_": items[2:]}
    data = TaskData(train=[], valid=sets["val_"], test=items, classes=3, checksum="")
    place = replace(context(tmp_path), rank=rank, world_size=world_size)
    config = replace(TUNING, eval_batch=3)
    evaluate = AccuracyEvaluation(data, config, place, torch.device("cpu"))
    expected = {}
    for prefix, examples in sets.items():
        own = examples[rank::world_size]
        rows = [(x if strands == 1 else x[0] - x[1]) for x, _ in own]
        correct = [int(row.argmax()) == label for row, (_, label) in zip(rows, own, strict=True)]
        expected[f"{prefix}accuracy"] = 100 * sum(correct) / len(own)
        losses = [-row.log_softmax(0)[label] for row, (_, label) in zip(rows, own, strict=True)]
        if not prefix:
            expected["loss"] = (sum(losses) / len(own)).item()
    found = evaluate(lambda one, other=0: one - other)
    assert found == pytest.approx(expected, rel=1e-6)
    assert list(evaluate.subsets) == ["", "val_"]


def test_calibration_has_32_training_sequences_of_the_seed(tmp_path, genome):
    config, given = replace(TUNING, seed=5, train_samples=50), []
    data = load_task(context(tmp_path, needs={"benchmarks": genome}), config)
    finetuning.run_on_sequences(data, config, torch.device("cpu"), given.append)
    (found,), (expected, _) = given, seeded_batch(data.train, 32, 5, "calibration")
    assert found.shape == (32, 32) and torch.equal(found, expected)


def test_arms_share_batches_and_test_set(tmp_path, genome, started):
    prints, checksums = [], []
    for arm, norm in ARMS.items():
        config = replace(TUNING, norm=norm, epochs=1)
        outcome, folder = run(
            finetuning.train, tmp_path / arm, config, benchmarks=genome, pretrained=started[arm]
        )
        prints.append(fingerprint(folder))
        checksums.append(outcome.details["test_checksum"])
    assert prints[0] == prints[1] and checksums[0] == checksums[1]


def test_selection_metric_without_split_is_the_test_accuracy(monkeypatch, tmp_path, genome):
    caught = made(monkeypatch, tmp_path, genome, split=None)
    assert caught.selection_metric == ("accuracy", "higher")
    assert made(monkeypatch, tmp_path, genome).selection_metric == ("val_accuracy", "higher")


def test_validation_and_test_accuracies_are_of_their_own_sets(monkeypatch, tmp_path, genome):
    subsets = made(monkeypatch, tmp_path, genome).evaluate.subsets
    counts = {prefix: subset.count for prefix, subset in subsets.items()}
    task = synthetic_genome.TASKS[TASK]
    assert counts == {"": 2 * task.test, "val_": round(0.1 * 2 * task.train)}
    assert made(monkeypatch, tmp_path, genome, split=None).evaluate.subsets.keys() == {""}


def test_optimizer_has_the_settings_of_the_config(monkeypatch, tmp_path, genome):
    changes = {"weight_decay": 0.3, "betas": (0.8, 0.7), "norm": ARMS["DyT"]}
    groups = made(monkeypatch, tmp_path, genome, **changes).optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert all(group["betas"] == (0.8, 0.7) for group in groups)
    official = made(monkeypatch, tmp_path, genome, **changes, official_decay=True).optimizer
    assert len(official.param_groups[0]["params"]) > len(groups[0]["params"])


def test_masked_pooling_is_an_option(monkeypatch, tmp_path, genome):
    assert made(monkeypatch, tmp_path, genome).model.pooling == "all"
    assert made(monkeypatch, tmp_path, genome, masked_pooling=True).model.pooling == "unpadded"


def test_resumed_fine_tuning_is_bit_identical(monkeypatch, tmp_path, genome, started):
    needs = {"benchmarks": genome, "pretrained": started["DyT"]}
    config = replace(TUNING, norm=ARMS["DyT"], task=TASK)
    assert_resume_is_bit_identical(
        monkeypatch, finetuning, finetuning.train, tmp_path, config, **needs
    )
