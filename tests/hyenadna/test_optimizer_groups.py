"""Optimizer groups of HyenaDNA: weight decay and the filters' options, by name."""

import pytest

import dyt
from dyt import Norm
from dyt_hyenadna.model import build_classifier, build_language_model
from dyt_hyenadna.network_config import HyenaNetwork
from dyt_hyenadna.optimizer_groups import optimizer_groups

TINY = HyenaNetwork(width=8, layers=1, max_length=18, filter_width=8)
BLOCK = "backbone.layers.0"
FILTER = f"{BLOCK}.mixer.filter_fn.implicit_filter"
MATRICES = {
    f"{BLOCK}.{layer}.weight"
    for layer in ("mixer.in_proj", "mixer.short_filter", "mixer.out_proj", "mlp.fc1", "mlp.fc2")
}
FILTER_BIASES = {f"{FILTER}.{i}.bias" for i in (0, 2, 4)}
FILTER_WEIGHTS = {f"{FILTER}.{i}.weight" for i in (0, 2, 4, 6)} | {f"{FILTER}.1.freq"}
NORMS = (f"{BLOCK}.norm1", f"{BLOCK}.norm2", "backbone.ln_f")


def groups_by_name(model, **options):
    """Return {(lr, weight decay): names}."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optimizer_groups(model, lr=6e-4, weight_decay=0.1, filter_lr=1e-4, **options)
    found = {
        (group["lr"], group["weight_decay"]): {names[p] for p in group["params"]}
        for group in groups
    }
    assert sum(map(len, found.values())) == len(names)
    return found


def build(arm, kind):
    model = build_language_model(TINY, 0) if kind == "lm" else build_classifier(TINY, 2, 0)
    if arm == "dyt":
        dyt.convert(model, Norm.dyt(0.5))
    return model


@pytest.mark.parametrize("kind", ["lm", "classifier"])
@pytest.mark.parametrize("arm", ["ln", "dyt"])
def test_default_groups_treat_norms_of_all_arms_alike(arm, kind):
    model = build(arm, kind)
    groups = groups_by_name(model)
    head = {"head.weight"} if kind == "classifier" else set()
    assert groups[6e-4, 0.1] == MATRICES | head
    assert groups[1e-4, 0.0] == FILTER_WEIGHTS | FILTER_BIASES
    undecayed = groups[6e-4, 0.0]
    assert "backbone.embeddings.word_embeddings.weight" in undecayed
    assert {f"{norm}.weight" for norm in NORMS} <= undecayed
    if arm == "dyt":
        assert {f"{norm}.alpha" for norm in NORMS} <= undecayed


@pytest.mark.parametrize("kind", ["lm", "classifier"])
@pytest.mark.parametrize("arm", ["ln", "dyt"])
def test_official_groups_decay_alpha_gamma_and_the_head(arm, kind):
    groups = groups_by_name(build(arm, kind), official=True)
    head = {"head.weight", "head.bias"} if kind == "classifier" else set()
    dynamic = {f"{norm}.{name}" for norm in NORMS for name in ("alpha", "weight")}
    assert groups[6e-4, 0.1] == MATRICES | head | (dynamic if arm == "dyt" else set())
    assert groups[1e-4, 0.0] == FILTER_WEIGHTS
    assert groups[6e-4, 0.0] >= FILTER_BIASES


def test_filter_lr_defaults_to_the_common_lr():
    groups = optimizer_groups(build("ln", "lm"), lr=6e-4, weight_decay=0.1)
    assert {group["lr"] for group in groups} == {6e-4}


def test_frozen_parameters_are_in_no_group():
    model = build("ln", "classifier")
    model.backbone.requires_grad_(False)
    groups = optimizer_groups(model, lr=1.0, weight_decay=0.1)
    assert [len(group["params"]) for group in groups] == [1, 1]
