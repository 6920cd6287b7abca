"""Tests of Caduceus's models: initial weights, classifiers, optimizer groups, mixed precision."""

import pytest
import torch

import dyt
from dyt_caduceus.model import (
    build_classifier,
    build_language_model,
    convert_norms,
    optimizer_groups,
    reverse_complement,
)
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_caduceus.strands import complement_map
from matched.training.seeding import generator

from ..messages import refused

PAD = 4


def network(**changes):
    return CaduceusNetwork(**{"width": 16, "layers": 2, **changes})


def bases(*shape, seed=0):
    return torch.randint(7, 11, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", ["ph", "ps"])
def test_initial_weights_depend_on_the_seed_alone(variant):
    small = network(variant=variant)
    first, second = (build_language_model(small, 3).state_dict() for _ in range(2))
    classifier = build_classifier(small, 2, 3).state_dict()
    other = build_language_model(small, 4).state_dict()
    for name in first:
        assert torch.equal(first[name], second[name])
        if name in classifier:
            assert torch.equal(first[name], classifier[name])
    projections = [name for name in first if name.endswith("in_proj.weight")]
    assert projections and not any(torch.equal(first[name], other[name]) for name in projections)


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "embedding"),
    [("ph", "word_embeddings.weight"), ("ps", "word_embeddings.embedding.weight")],
)
def test_initial_weights_are_drawn_for_their_names(variant, embedding):
    state = build_language_model(network(variant=variant, embedding_std=0.5), 3).state_dict()
    name = f"backbone.embeddings.{embedding}"
    expected = torch.empty(16, 16).normal_(std=0.5, generator=generator(3, "weights", name))
    assert torch.equal(state[name], expected)
    deeper = build_language_model(network(variant=variant, embedding_std=0.5, layers=3), 3)
    deeper = deeper.state_dict()
    for name, weights in state.items():
        factor = (3 / 2) ** 0.5 if name.endswith("out_proj.weight") else 1
        torch.testing.assert_close(deeper[name] * factor, weights)


@torch.no_grad()
def test_initial_weights_have_the_official_distributions():
    model = build_language_model(network(width=128, variant="ph", embedding_std=0.5), 0)
    mixer = model.backbone.layers[1].mixer
    mamba = mixer.mamba_rev
    step = torch.nn.functional.softplus(mamba.dt_proj.bias)
    assert step.min() >= 1e-3 - 1e-6 and step.max() <= 0.1 + 1e-6
    assert step.log().mean() == pytest.approx(-4.6, abs=0.25)  # between log 0.001 and log 0.1
    assert torch.equal(mamba.A_log[5], torch.arange(1, 17).log())
    assert torch.equal(mamba.D, torch.ones(256))
    assert mamba.in_proj.weight.abs().max() == pytest.approx(128**-0.5, rel=0.01)
    assert mamba.out_proj.weight.abs().max() == pytest.approx(256**-0.5 / 2**0.5, rel=0.01)
    assert mamba.dt_proj.weight.abs().max() == pytest.approx(8**-0.5, rel=0.01)
    assert mamba.conv1d.weight.abs().max() == pytest.approx(0.5, rel=0.01)
    assert model.lm_head.weight.std() == pytest.approx(0.5, rel=0.1)
    assert not torch.equal(
        mamba.conv1d.weight, model.backbone.layers[1].mixer.mamba_fwd.conv1d.weight
    )


@pytest.mark.parametrize("variant", ["ph", "ps"])
def test_directions_share_projections_and_output_shares_embedding(variant):
    model = build_language_model(network(variant=variant), 0)
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if "lm_head" in name or "mamba_rev.in_proj" in name]
    assert len([name for name in names if "out_proj" in name]) == 2
    model(bases(1, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("variant", ["ph", "ps"])
def test_classifier_pooling_without_pads_ignores_their_number(variant):
    model = build_classifier(network(variant=variant), 2, 0, "unpadded")
    hidden = torch.randn(2, 5, 16)
    pads = torch.tensor([[True, True, False, False, False], [False] * 5])
    torch.testing.assert_close(model.pool(hidden, pads)[0], hidden[0, 2:].mean(0))
    torch.testing.assert_close(model.pool(hidden, pads)[1], hidden[1].mean(0))
    assert torch.equal(model.pool(hidden, torch.ones(2, 5, dtype=torch.bool)), torch.zeros(2, 16))
    ids = torch.cat([torch.full((2, 4), PAD), bases(2, 12)], dim=1)
    assert not torch.allclose(model(ids), build_classifier(model.network, 2, 0)(ids))


def test_ps_classifier_leaves_out_the_pads_of_both_strands():
    model = build_classifier(network(variant="ps"), 2, 0, "unpadded")
    ids = torch.cat([torch.full((2, 4), PAD), bases(2, 12)], dim=1)
    first, second = model.backbone(ids).chunk(2)  # the second reads its strand, pads last
    pooled = first[:, 4:].mean(1), second[:, :-4].mean(1)
    torch.testing.assert_close(model(ids), (model.head(pooled[0]) + model.head(pooled[1])) / 2)


def test_ps_sequences_of_a_batch_do_not_depend_on_each_other():
    model, ids = build_language_model(network(variant="ps", embedding_std=1.0), 0), bases(5, 12)
    logits = model(ids)
    for one, alone in zip(ids, logits, strict=True):
        torch.testing.assert_close(model(one[None])[0], alone)


def test_ph_classifier_conjoins_strands_in_evaluation_only():
    model = build_classifier(network(variant="ph"), 2, 0, conjoin=True)
    ids = torch.cat([torch.full((3, 4), PAD), bases(3, 12)], dim=1)
    other = reverse_complement(ids)
    assert torch.equal(other[:, :4], ids[:, :4])
    assert torch.equal(other[:, 4:], 17 - ids[:, 4:].flip(1))
    first, second = model(ids), model(other)  # in training mode, one strand
    model.eval()
    torch.testing.assert_close(model(ids), (first + second) / 2)
    torch.testing.assert_close(model(ids), model(other))
    given = reverse_complement(bases(3, 16, seed=1))
    torch.testing.assert_close(model(ids, given), (first + model.train()(given)) / 2)


@pytest.mark.parametrize("norm", [dyt.Norm.own(), dyt.Norm.dyt()], ids=str)
@pytest.mark.parametrize("variant", ["ph", "ps"])
def test_optimizer_groups_decay_matrices_alone(norm, variant):
    model = build_classifier(network(variant=variant), 2, 0)
    convert_norms(model, norm)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, undecayed = optimizer_groups(model, lr=1e-3, weight_decay=0.1)
    for official in (False, True):
        groups = optimizer_groups(model, lr=1e-3, weight_decay=0.1, official=official)
        assert [(g["weight_decay"], g["lr"]) for g in groups] == [(0.1, 1e-3), (0.0, 1e-3)]
        assert sum(len(group["params"]) for group in groups) == len(names)
    layers = {names[p].split(".")[-2] for p in decayed["params"]}
    assert layers == {"in_proj", "conv1d", "x_proj", "dt_proj", "out_proj", "head"}
    assert all(p.ndim >= 2 for p in decayed["params"])
    free = {names[p].split(".")[-1] for p in undecayed["params"]}
    assert free >= {"A_log", "D", "bias", "weight"} | ({"alpha"} if norm.layer == "dyt" else set())
    official, _ = optimizer_groups(model, lr=1e-3, weight_decay=0.1, official=True)
    extra = {names[p] for p in official["params"]} - {names[p] for p in decayed["params"]}
    assert {name.split(".")[-1] for name in extra} == (
        {"alpha", "weight", "bias"} if norm.layer == "dyt" else {"weight", "bias"}
    )
    assert [name for name in extra if name.endswith("bias")] == ["head.bias"]


@pytest.mark.parametrize("build", [build_language_model, lambda n, seed: build_classifier(n, 2, 0)])
@pytest.mark.parametrize("variant", ["ph", "ps"])
def test_embedding_and_a_are_the_matrices_without_decay(build, variant):
    mixer = "mixer." if variant == "ph" else "mixer.submodule."
    embedding = "" if variant == "ph" else "embedding."
    assert build(network(variant=variant), 0).no_weight_decay() == {
        f"backbone.embeddings.word_embeddings.{embedding}weight",
        *(
            f"backbone.layers.{layer}.{mixer}mamba_{direction}.A_log"
            for layer in range(2)
            for direction in ("fwd", "rev")
        ),
    }


def test_convert_norms_adds_a_bias_of_zero():
    model = build_language_model(network(), 0)
    report = convert_norms(model, dyt.Norm.dyt(alpha0=0.7))
    layer = model.get_submodule(report.paths[0])
    assert torch.equal(layer.bias, torch.zeros(16))
    assert layer.alpha.item() == pytest.approx(0.7)
    model(bases(1, 8)).sum().backward()
    assert layer.bias.grad.abs().max() > 0


def test_language_model_under_autocast_returns_float32_near_the_exact_logits():
    model = build_language_model(network(embedding_std=1.0), 0)
    ids = bases(2, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(logits, model(ids), rtol=0.05, atol=0.05 * logits.abs().max().item())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "pq"}, "variant is 'pq'; expected 'ph' or 'ps'"),
        ({"width": 0}, "width is 0; expected a whole number of 1 or more"),
        ({"vocabulary": 11}, "vocabulary is 11; expected 12 or more, the tokenizer's ids"),
        ({"vocabulary": 20}, r"padded_vocabulary is 16; expected the vocabulary \(20\) or more"),
        ({"embedding_std": 0.0}, "embedding_std is 0.0; expected a number above 0"),
        ({"variant": "ph", "strand_exchange": True}, "only the variant 'ps' has two strands"),
    ],
)
def test_network_config_refuses_bad_values(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_models_refuse_a_vocabulary_below_the_tokenizers():
    assert refused(build_language_model, network(padded_vocabulary=12), 0) == (
        "padded_vocabulary is 12; expected 16 or more, for the tokenizer"
    )


def test_complement_map_leaves_further_rows_as_they_are():
    """A, C, G and T are 7 to 10."""
    expected = torch.arange(20)
    expected[7:11] = torch.tensor([10, 9, 8, 7])
    found = complement_map(20)
    assert found.dtype == torch.int64 and torch.equal(found, expected)
    assert torch.equal(complement_map(16), expected[:16])


def test_pooling_has_one_of_two_names():
    """Any other would average without the pads, and hide a mistyped name."""
    model = build_classifier(network(), 2, 0)
    assert (model.pooling, model.conjoin) == ("all", False)
    hidden, pads = torch.randn(1, 3, 16), torch.tensor([[True, False, False]])
    torch.testing.assert_close(model.pool(hidden, pads), hidden.mean(1))
