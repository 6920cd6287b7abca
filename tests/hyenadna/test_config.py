"""Configs of the DNA runs: defaults, and refused values."""

from dataclasses import replace

import pytest

from dyt import Norm
from dyt_hyenadna import config as configs
from dyt_hyenadna import intervals, network_config, preparation_config
from dyt_hyenadna.config import FineTuning, Pretraining, ReleasedWeights
from dyt_hyenadna.intervals import HeldOut
from dyt_hyenadna.network_config import HyenaNetwork
from dyt_hyenadna.preparation_config import Preparation

from ..config_checks import assert_checks_counts, assert_checks_fractions, defaults_of, refusal

TRAINING = {"data": "hg38", "epochs": 1, "batch": 8, "micro_batch": 8, "lr": 1e-3}
NETWORK = HyenaNetwork()
PRETRAINING = Pretraining(**TRAINING)
TUNING = FineTuning(**TRAINING, task="human_nontata_promoters", max_length=512)

DEFAULTS = {
    "GenomePretraining": {
        "length": 1024,
        "cut": "tiles",
        "flip": 0.0,
        "flip_evaluation": False,
        "predict_n": False,
        "upper_case": True,
        "length_stages": (),
        "eval_samples": 4096,
        "eval_batch": 128,
        "official_decay": False,
    },
    "ReleasedWeights": {"data": "hyenadna-weights"},
    "BenchmarkFineTuning": {
        "split": None,
        "train_samples": None,
        "max_length": None,
        "flip": 0.0,
        "flip_evaluation": False,
        "cut_before_flip": True,
        "upper_case": True,
        "masked_pooling": False,
        "eval_batch": 256,
        "official_decay": False,
    },
    "HyenaNetwork": {
        "vocabulary": 12,
        "vocabulary_multiple": 8,
        "width": 128,
        "layers": 2,
        "mlp_ratio": 4,
        "max_length": 1026,
        "dropout": 0.1,
        "epsilon": 1e-05,
        "embedding_std": 0.02,
        "filter_features": 5,
        "filter_width": 64,
        "filter_frequency": 10.0,
        "fast_decay": 0.3,
        "slow_decay": 1.5,
        "decay_shift": 0.0,
    },
    "Preparation": {"shuffle_seed": 0},
    "HeldOut": {"length": 131072, "valid": 0.05, "test": 0.05, "max_n": 0.1},
}
"""Those of HyenaDNA's tiny-1k network, and of Caduceus's paper."""


def test_defaults_of_dna_configs():
    found = {}
    for module in (configs, network_config, preparation_config, intervals):
        found |= {name: defaults for name, defaults in defaults_of(module).items() if defaults}
    assert found == DEFAULTS
    assert PRETRAINING.norm == TUNING.norm == ReleasedWeights().norm == Norm.own()
    assert PRETRAINING.network == TUNING.network == ReleasedWeights().network == NETWORK
    assert Preparation(data="hg38").held_out == HeldOut()
    assert ReleasedWeights.seed == 0


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (NETWORK, "vocabulary vocabulary_multiple width layers mlp_ratio max_length"),
        (NETWORK, "filter_features filter_width"),
        (PRETRAINING, "length eval_samples eval_batch"),
        (TUNING, "eval_batch split train_samples max_length"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_dna_configs_require_counts(config, names):
    assert_checks_counts(config, *names.split())


def test_dna_configs_require_fractions():
    assert_checks_fractions(NETWORK, "dropout")
    assert_checks_fractions(PRETRAINING, "flip")
    assert_checks_fractions(TUNING, "flip")


FILTERS = (
    "and the filters cover 1026 positions (network.max_length); shorten the sequences or use a "
    "network with longer filters"
)
FEATURES = "expected an odd number of 3 or more: time, and cosine and sine of each frequency"
STAGES = "expected (steps, length) pairs with lengths that divide length (1024)"
SOURCES = "'synthetic-genome', 'hg38', 'genome', 'arabidopsis' or 'genomic-benchmarks'"


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (NETWORK, {"filter_features": 1}, f"filter_features is 1; {FEATURES}"),
        (NETWORK, {"filter_features": 6}, f"filter_features is 6; {FEATURES}"),
        *(
            (NETWORK, {name: 0.0}, f"{name} is 0.0; expected a positive number")
            for name in ("epsilon", "embedding_std", "fast_decay", "slow_decay")
        ),
        (NETWORK, {"vocabulary": 11}, "vocabulary is 11; expected 12 or more, the tokenizer's ids"),
        (PRETRAINING, {"length": 1027}, f"length is 1027, {FILTERS}"),
        (
            PRETRAINING,
            {"cut": "last"},
            "cut is 'last'; expected 'tiles', 'random', 'first' or 'stretched'",
        ),
        (PRETRAINING, {"length_stages": ((9, 100),)}, f"length_stages is ((9, 100),); {STAGES}"),
        (PRETRAINING, {"length_stages": ((0, 64),)}, f"length_stages is ((0, 64),); {STAGES}"),
        (PRETRAINING, {"length_stages": ((9, 0),)}, f"length_stages is ((9, 0),); {STAGES}"),
        (PRETRAINING, {"length_stages": ((9,),)}, f"length_stages is ((9,),); {STAGES}"),
        (PRETRAINING, {"length_stages": (9, 64)}, f"length_stages is (9, 64); {STAGES}"),
        (TUNING, {"max_length": 1027}, f"max_length is 1027, {FILTERS}"),
        (Preparation(data="hg38"), {"data": "mouse"}, f"data is 'mouse'; expected {SOURCES}"),
        (
            ReleasedWeights(),
            {"norm": Norm.dyt(0.5)},
            f"norm is {Norm.dyt(0.5)}, but released weights were trained with the network's own "
            "norms; expected Norm.own(): pretrain the other arms",
        ),
        *(
            (config, {"norm": "dyt"}, "norm is 'dyt'; expected a dyt.Norm, such as Norm.dyt()")
            for config in (PRETRAINING, TUNING, ReleasedWeights())
        ),
    ],
)
def test_dna_configs_refuse(config, changes, message):
    assert refusal(config, **changes) == message


def test_fine_tuning_checks_the_length_of_its_task():
    short = replace(TUNING, task="human_enhancers_cohn", max_length=499)
    short = replace(short, network=replace(NETWORK, max_length=499))
    assert refusal(short, max_length=None).startswith(
        "max_length is 500, and the filters cover 499 positions (network.max_length)"
    )


def test_dna_configs_check_the_settings_of_every_training():
    for config in (PRETRAINING, TUNING):
        assert refusal(config, lr=0.0).startswith("lr 0.0")


def test_dna_configs_accept_boundary_values():
    replace(PRETRAINING, length=1026, flip=1.0)
    replace(PRETRAINING, length_stages=((1, 1024), (2, 1)))
    replace(TUNING, max_length=1026, split=1, train_samples=1)
    replace(TUNING, task="of a test", max_length=None)
    replace(NETWORK, filter_features=3, dropout=1.0)
