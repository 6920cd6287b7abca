"""Initial weights of HyenaDNA: the official rule of every tensor."""

import math
from dataclasses import replace

import pytest
import torch

from dyt_hyenadna.model import build_classifier, build_language_model
from dyt_hyenadna.network_config import HyenaNetwork

NETWORK = HyenaNetwork(width=128, layers=3)
NORMAL = {  # std of the official code's tensors, by the end of the name
    "word_embeddings.weight": 0.02,
    "in_proj.weight": 0.02,
    "fc1.weight": 0.02,
    "implicit_filter.0.weight": 0.02,
    "implicit_filter.2.weight": 0.02,
    "implicit_filter.4.weight": 0.02,
    "implicit_filter.6.weight": 0.02,
    "out_proj.weight": 0.02 / math.sqrt(6),
    "fc2.weight": 0.02 / math.sqrt(6),
    "filter_fn.bias": 1.0,
}
UNIFORM = {  # bound
    "short_filter.weight": 1 / math.sqrt(3),
    "short_filter.bias": 1 / math.sqrt(3),
    "head.weight": 1 / math.sqrt(128),
    "head.bias": 1 / math.sqrt(128),
}
CONSTANT = {
    "freq": 10.0,
    **{f"{norm}.weight": 1.0 for norm in ("norm1", "norm2", "ln_f")},
    **{f"{norm}.bias": 0.0 for norm in ("norm1", "norm2", "ln_f")},
    **{f"{layer}.bias": 0.0 for layer in ("in_proj", "out_proj", "fc1", "fc2")},
    **{f"implicit_filter.{i}.bias": 0.0 for i in (0, 2, 4)},
}


@pytest.fixture(scope="module")
def parameters():
    return dict(build_classifier(NETWORK, 200, 0).named_parameters())


def find_rule(name, rules):
    return next((value for end, value in rules.items() if name.endswith(f".{end}")), None)


def test_every_parameter_has_one_official_rule(parameters):
    for name in parameters:
        found = [find_rule(f".{name}", rules) for rules in (NORMAL, UNIFORM, CONSTANT)]
        assert sum(rule is not None for rule in found) == 1, name


def test_parameters_follow_the_official_distributions(parameters):
    for name, values in parameters.items():
        spread = 5 / math.sqrt(values.numel())  # five standard errors
        if (std := find_rule(f".{name}", NORMAL)) is not None:
            assert abs(values.mean().item()) < spread * std, name
            assert values.std().item() == pytest.approx(std, rel=spread), name
            assert values.abs().max() > 2 * std, name  # a uniform one of this std ends at 1.73
        elif (bound := find_rule(f".{name}", UNIFORM)) is not None:
            assert values.abs().max().item() <= bound, name
            assert values.abs().max().item() > (1 - spread) * bound, name
            assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=spread), name
        else:
            expected = find_rule(f".{name}", CONSTANT)
            assert torch.equal(values, torch.full_like(values, expected)), name


def test_embedding_std_is_a_config_field_for_the_embedding_alone():
    small = build_language_model(NETWORK, 0).state_dict()
    large = build_language_model(replace(NETWORK, embedding_std=1.0), 0).state_dict()
    embedding = {"backbone.embeddings.word_embeddings.weight", "lm_head.weight"}
    assert {name for name in small if not torch.equal(small[name], large[name])} == embedding
    name = "lm_head.weight"
    assert torch.allclose(small[name] * 50, large[name], rtol=1e-5)


def test_weights_do_not_depend_on_the_depth():
    shallow = build_language_model(replace(NETWORK, layers=1), 0).state_dict()
    deep = build_language_model(NETWORK, 0).state_dict()
    name = "backbone.layers.0.mixer.in_proj.weight"
    assert torch.equal(shallow[name], deep[name])


def test_layers_have_different_weights(parameters):
    name = "backbone.layers.{}.mixer.in_proj.weight"
    assert not torch.equal(parameters[name.format(0)], parameters[name.format(1)])
