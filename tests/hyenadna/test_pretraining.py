"""Pretraining of HyenaDNA: samples, held-out loss, plateau warning, length stages, resume."""

import math
from dataclasses import replace

import pytest
import torch

from dyt import alphas
from dyt_hyenadna import pretraining, synthetic_genome
from dyt_hyenadna.language_samples import LanguageEvaluation, LengthStages, spread_evenly
from dyt_hyenadna.tokenizer import PAD, SEP, UNK, A, C, G, N, T
from matched.task import Context, Outcome
from matched.training import StepInfo
from matched.training.batches import seeded_batch
from matched.training.evaluation import FixedSamples

from ..messages import refused
from .chain import (
    ARMS,
    LENGTH,
    PRETRAINING,
    assert_resume_is_bit_identical,
    context,
    fingerprint,
    learner,
    run,
)


def samples(tmp_path, genome, **changes):
    where = context(tmp_path, needs={"genome": genome})
    return pretraining.load_samples(where, replace(PRETRAINING, **changes), pretraining.next_token)


def test_pretrain_writes_loss_weights_and_equal_fingerprints(tmp_path, genome):
    prints = {}
    for arm, norm in ARMS.items():
        config = replace(PRETRAINING, norm=norm)
        outcome, folder = run(pretraining.pretrain, tmp_path / arm, config, genome=genome)
        assert outcome.steps == 4 and 0 < outcome.metrics["unigram_loss"] < math.log(5)
        assert math.isfinite(outcome.metrics["loss"])
        assert outcome.details == {"warnings": pretraining.plateau_warnings(outcome)}
        state = pretraining.read_pretrained(folder)
        assert any("alpha" in name for name in state) == (arm == "DyT")
        prints[arm] = fingerprint(folder)
    assert prints["LN"] == prints["DyT"] and len(prints["LN"]["batches"]) == 4


def test_pretrain_without_genome_is_refused(tmp_path):
    assert refused(pretraining.pretrain, context(tmp_path), PRETRAINING) == (
        'pretraining needs a preparation of the genome under the name "genome"'
    )


def test_learner_selects_the_lowest_loss_of_the_networks_own_groups(monkeypatch, tmp_path, genome):
    config = replace(PRETRAINING, norm=ARMS["DyT"], weight_decay=0.3, betas=(0.8, 0.7))
    caught = learner(
        monkeypatch, pretraining, pretraining.pretrain, tmp_path, config, genome=genome
    )
    assert caught.selection_metric == ("loss", "lower")
    assert caught.alphas is alphas and set(alphas(caught.model)) == set(caught.norms)
    groups = caught.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert all((g["lr"], g["betas"]) == (config.lr, (0.8, 0.7)) for g in groups)
    caught.model.eval()
    pair = tuple(part[None] for part in caught.dataset[0])
    logits = caught.model(pair[0])
    expected = torch.nn.functional.cross_entropy(logits[0], pair[1][0], ignore_index=PAD)
    torch.testing.assert_close(caught.loss(caught.model, pair), expected)


def test_language_samples_end_with_the_separator(tmp_path, genome):
    train, held_out = samples(tmp_path, genome)
    inputs, targets = train[0]
    assert inputs.shape == targets.shape == (LENGTH,)
    assert targets[-1] == SEP and torch.equal(targets[:-1], inputs[1:])
    assert len(held_out) == PRETRAINING.eval_samples


@pytest.mark.parametrize("cut", ["first", "stretched"])
def test_held_out_windows_may_be_longer_than_intervals(tmp_path, genome, cut):
    length = 2 * synthetic_genome.INTERVAL_LENGTH
    network = replace(PRETRAINING.network, max_length=length + 2)
    _, held_out = samples(tmp_path, genome, length=length, cut=cut, network=network)
    assert held_out[0][0].shape == (length,)


def test_predict_n_keeps_n_as_a_target(tmp_path, genome):
    def tokens(**changes):
        train, _ = samples(tmp_path, genome, **changes)
        return torch.stack([train[i][0] for i in range(len(train))])

    ignored, predicted = tokens(flip=0.0), tokens(flip=0.0, predict_n=True)
    assert not (ignored == N).any() and (predicted == N).any()
    assert torch.equal(ignored == PAD, predicted == N)


def test_flip_evaluation_is_off_by_default_and_fixed_when_on(tmp_path, genome):
    def read(dataset):
        return torch.stack([dataset[i][0] for i in range(len(dataset))])

    plain = FixedSamples(samples(tmp_path, genome)[1], 0)
    flipped = FixedSamples(samples(tmp_path, genome, flip_evaluation=True)[1], 0)
    assert torch.equal(read(plain), read(plain)) and torch.equal(read(flipped), read(flipped))
    differing = (read(plain) != read(flipped)).any(1)
    assert 0 < differing.sum() < len(differing)


@pytest.mark.parametrize("token", [SEP, PAD])
def test_held_out_loss_does_not_count_special_tokens(monkeypatch, tmp_path, genome, token):
    """A model that predicts only [SEP] or [PAD] right has an accuracy of 0."""
    caught = learner(
        monkeypatch, pretraining, pretraining.pretrain, tmp_path, PRETRAINING, genome=genome
    )

    def constant(ids):
        return torch.nn.functional.one_hot(torch.full_like(ids, token), 16) * 50.0

    metrics = caught.evaluate(constant)
    assert metrics["accuracy"] == 0 and metrics["loss"] == pytest.approx(50, abs=0.01)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2)])
def test_evaluation_of_targets_by_hand(tmp_path, rank, world_size):
    """Probabilities of A, C, G, T: 0.4, 0.3, 0.2, 0.1; of the second of two processes the last
    sample is padding."""
    targets = [[A, A, C, SEP], [C, PAD, T, SEP], [A, N, PAD, SEP]]
    pairs = [(torch.tensor([G, *row[:-1]]), torch.tensor(row)) for row in targets]
    shares = torch.full((16,), 1e-9)
    shares[[A, C, G, T, N]] = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.05])

    def model(ids):
        logits = shares.log().repeat(*ids.shape, 1)
        logits[ids == C, A] = 0.0  # A follows C: three times as probable
        return logits

    place = Context(directory=tmp_path, signature="x", rank=rank, world_size=world_size)
    config = replace(PRETRAINING, eval_batch=2)
    evaluate = LanguageEvaluation(pairs, config, place, torch.device("cpu"))
    loss, correct, counts = 0.0, 0, dict.fromkeys((A, C, T, N), 0)
    for ids, row in pairs[rank::world_size]:
        for given, target in zip(ids.tolist(), row.tolist(), strict=True):
            if target not in (PAD, SEP):
                own = {**dict(enumerate(shares.tolist())), **({A: 1.0} if given == C else {})}
                loss -= math.log(own[target] / sum(own.values()))
                correct += target == A
                counts[target] += 1
    total = sum(counts.values())
    entropy = -sum(n / total * math.log(n / total) for n in counts.values() if n)
    assert evaluate(model) == pytest.approx(
        {"loss": loss / total, "accuracy": 100 * correct / total, "unigram_loss": entropy}, rel=1e-6
    )
    assert (total, correct) == {(0, 1): (7, 3), (0, 2): (5, 3), (1, 2): (2, 0)}[rank, world_size]


def test_calibration_windows_have_8192_bases_of_the_seed(tmp_path, genome):
    train, _ = samples(tmp_path, genome)
    config, given = replace(PRETRAINING, seed=5), []

    def model(inputs):
        given.append(inputs)
        return torch.zeros(*inputs.shape, 16)

    loss = pretraining.run_on_windows(train, config, torch.device("cpu"), model)
    expected, _ = seeded_batch(train, 256, 5, "calibration")
    assert torch.equal(given[0], expected) and len(expected) == min(256, len(train))
    assert loss.item() == pytest.approx(math.log(16))
    longer = replace(config, length=3000, network=replace(config.network, max_length=9002))
    for length, count in ((3000, 2), (9000, 1)):
        pretraining.run_on_windows(
            train, replace(longer, length=length), torch.device("cpu"), model
        )
        assert len(given[-1]) == count


def test_unigram_loss_is_that_of_the_base_shares(monkeypatch, tmp_path, genome):
    caught = learner(
        monkeypatch, pretraining, pretraining.pretrain, tmp_path, PRETRAINING, genome=genome
    )
    targets = torch.cat([targets[:, :-1] for _, targets in caught.evaluate.subset.loader])
    counts = targets[targets != PAD].bincount(minlength=16)
    logits = (counts / counts.sum()).clamp(min=1e-30).log()
    metrics = caught.evaluate(lambda ids: logits.expand(*ids.shape, 16))
    assert metrics["unigram_loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def test_evaluation_does_not_depend_on_its_batch(monkeypatch, tmp_path, genome):
    losses = []
    for batch in (5, 12):
        config = replace(PRETRAINING, eval_batch=batch)
        caught = learner(
            monkeypatch, pretraining, pretraining.pretrain, tmp_path, config, genome=genome
        )
        with torch.no_grad():
            losses.append(caught.evaluate(caught.model.eval()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("loss, warned", [(1.380, True), (1.372, True), (1.360, False)])
def test_pretraining_at_the_unigram_entropy_is_warned_of(loss, warned):
    outcome = Outcome(metrics={"loss": loss, "unigram_loss": 1.381}, steps=1)
    warnings = pretraining.plateau_warnings(outcome)
    assert warnings == warned * [
        f"pretraining never left the unigram entropy: its loss is {loss:.3f} nats, and predicting "
        "the shares of the bases everywhere gives 1.381"
    ]


def test_diverged_pretraining_has_no_plateau_warning():
    assert pretraining.plateau_warnings(Outcome(metrics={}, diverged=True, steps=1)) == []


def test_length_stages_follow_the_steps():
    stages = LengthStages(replace(PRETRAINING, length_stages=((2, 8), (1, 16))))
    lengths = []
    for step in range(4):
        stages.before_step(StepInfo(step=step, steps=4, steps_per_epoch=4))
        lengths.append(stages.length)
    assert lengths == [8, 8, 16, 32]


def test_upper_case_false_reads_repeats_as_unknown(tmp_path, genome):
    for upper_case in (True, False):
        for part in samples(tmp_path, genome, upper_case=upper_case, cut="tiles"):
            tokens = torch.cat([part[index][0] for index in range(len(part))])
            assert (UNK in tokens) != upper_case


def test_length_stages_divide_the_windows_of_each_step(monkeypatch, tmp_path, genome):
    config = replace(PRETRAINING, length_stages=((2, 8),))
    shapes = []

    class Recorder(LengthStages):
        def divide(self, pair):
            divided = super().divide(pair)
            shapes.append(tuple(divided[0].shape))
            return divided

    monkeypatch.setattr(pretraining, "LengthStages", Recorder)
    run(pretraining.pretrain, tmp_path / "run", config, genome=genome)
    assert shapes == [(16, 8)] * 4 + [(4, 32)] * 4


@pytest.mark.parametrize("stages", [((0, 8),), ((2, 7),), ((2, 64),), (2, 8), ((2,),)])
def test_length_stages_that_do_not_divide_are_refused(stages):
    with pytest.raises(ValueError, match="lengths that divide length"):
        replace(PRETRAINING, length_stages=stages)


def test_windows_longer_than_the_filters_are_refused():
    with pytest.raises(ValueError, match="length is 64, and the filters cover 34 positions"):
        replace(PRETRAINING, length=64)


def test_spread_evenly_takes_windows_at_equal_distances():
    assert list(spread_evenly(list(range(10)), 4)) == [0, 2, 5, 7]
    assert spread_evenly([1, 2], 4) == [1, 2]


def test_resumed_pretraining_is_bit_identical(monkeypatch, tmp_path, genome):
    config = replace(PRETRAINING, norm=ARMS["DyT"], length_stages=((3, 16),))
    assert_resume_is_bit_identical(
        monkeypatch, pretraining, pretraining.pretrain, tmp_path, config, genome=genome
    )
