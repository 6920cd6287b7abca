"""Configs of Caduceus: defaults, derived sizes, and refused values."""

from dataclasses import replace

import pytest

from dyt_caduceus import config as configs
from dyt_caduceus import network_config
from dyt_caduceus.config import FineTuning, Pretraining, ReleasedWeights
from dyt_caduceus.network_config import CaduceusNetwork

from ..config_checks import assert_checks_counts, defaults_of, refusal

NETWORK = CaduceusNetwork(width=8, layers=1)
PH = replace(NETWORK, variant="ph")
TRAINING = {"data": "hg38", "epochs": 1, "batch": 8, "micro_batch": 8, "lr": 1e-3}
PRETRAINING = Pretraining(**TRAINING, network=NETWORK)
TUNING = FineTuning(**TRAINING, network=NETWORK, task="any")

DEFAULTS = {
    "Pretraining": {"mask_probability": 0.15},
    "ReleasedWeights": {"data": "caduceus-weights"},
    "FineTuning": {"conjoin": False},
    "CaduceusNetwork": {
        "variant": "ps",
        "d_state": 16,
        "d_conv": 4,
        "expand": 2,
        "vocabulary": 12,
        "padded_vocabulary": 16,
        "embedding_std": 0.02,
        "epsilon": 1e-05,
        "strand_exchange": False,
    },
}
"""Those of the official release."""


def test_defaults_of_caduceus_configs():
    found = {**defaults_of(configs), **defaults_of(network_config)}
    assert found == DEFAULTS


def test_derived_sizes_of_a_network():
    assert (NETWORK.inner, replace(NETWORK, expand=3).inner) == (16, 24)
    ranks = [replace(NETWORK, width=width).dt_rank for width in (1, 16, 17, 118, 256)]
    assert ranks == [1, 1, 2, 8, 16]


def test_caduceus_network_requires_counts():
    names = "width layers d_state d_conv expand vocabulary padded_vocabulary"
    assert_checks_counts(NETWORK, *names.split())


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (NETWORK, {"variant": "rc"}, "variant is 'rc'; expected 'ph' or 'ps'"),
        (NETWORK, {"vocabulary": 11}, "vocabulary is 11; expected 12 or more, the tokenizer's ids"),
        (
            NETWORK,
            {"padded_vocabulary": 11},
            "padded_vocabulary is 11; expected the vocabulary (12) or more",
        ),
        (NETWORK, {"epsilon": 0.0}, "epsilon is 0.0; expected a number above 0"),
        (NETWORK, {"embedding_std": -1.0}, "embedding_std is -1.0; expected a number above 0"),
        (
            PH,
            {"strand_exchange": True},
            "strand_exchange is True, but only the variant 'ps' has two strands; set "
            "strand_exchange to False, or variant to 'ps'",
        ),
        (
            PRETRAINING,
            {"mask_probability": 1.1},
            "mask_probability is 1.1; expected above 0, at most 1",
        ),
        (
            PRETRAINING,
            {"mask_probability": 0},
            "mask_probability is 0; expected above 0, at most 1",
        ),
        (
            TUNING,
            {"conjoin": True},
            'conjoin is True, but the variant is "ps", whose logits are the mean over both strands '
            'already; expected the variant "ph"',
        ),
        (
            replace(TUNING, network=PH, conjoin=True),
            {"flip_evaluation": True},
            "conjoin and flip_evaluation are True; expected at most one: conjoining uses both "
            "strands of every sequence",
        ),
    ],
)
def test_caduceus_configs_refuse(config, changes, message):
    assert refusal(config, **changes) == message


def test_caduceus_configs_check_the_settings_that_hyenadna_shares():
    for config in (PRETRAINING, TUNING):
        assert refusal(config, lr=0.0).startswith("lr 0.0")
        assert refusal(config, flip=2) == "flip is 2; expected 0 to 1"
    assert "norm is 'dyt'" in refusal(ReleasedWeights(network=NETWORK), norm="dyt")


def test_caduceus_configs_accept_boundary_values():
    replace(NETWORK, padded_vocabulary=12, strand_exchange=True)
    replace(PRETRAINING, mask_probability=1)
    replace(TUNING, network=PH, conjoin=True, flip=1.0)
    replace(TUNING, flip_evaluation=True)
