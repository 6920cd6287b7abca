"""Sizes of HyenaDNA: checks, padding of the vocabulary, official configs."""

from dataclasses import replace

import pytest

from dyt_hyenadna.network_config import HyenaNetwork, official_network

from ..messages import refused

TINY_1K = {  # config.json of LongSafari/hyenadna-tiny-1k-seqlen
    "d_model": 128,
    "n_layer": 2,
    "d_inner": 512,
    "vocab_size": 12,
    "resid_dropout": 0.0,
    "embed_dropout": 0.1,
    "residual_in_fp32": True,
    "pad_vocab_size_multiple": 8,
    "layer": {
        "_name_": "hyena",
        "emb_dim": 5,
        "filter_order": 64,
        "local_order": 3,
        "l_max": 1026,
        "modulate": True,
        "w": 10,
        "lr": 6e-4,
        "wd": 0.0,
        "lr_pos_emb": 0.0,
    },
}
SMALL_32K_HF = {  # of LongSafari/hyenadna-small-32k-seqlen-hf
    "activation_freq": 10,
    "d_inner": 1024,
    "d_model": 256,
    "emb_dim": 5,
    "embed_dropout": 0.1,
    "filter_order": 64,
    "hyena_order": 2,
    "layer_norm_epsilon": 1e-05,
    "max_seq_len": 32770,
    "n_layer": 4,
    "num_inner_mlps": 2,
    "pad_vocab_size_multiple": 8,
    "short_filter_order": 3,
    "vocab_size": 12,
}


def test_official_network_reads_the_official_config():
    assert official_network(TINY_1K) == HyenaNetwork(width=128, layers=2, max_length=1026)


def test_official_network_reads_the_shift_of_the_official_config():
    config = {**TINY_1K, "layer": {**TINY_1K["layer"], "shift": 0.05}}
    assert official_network(config).decay_shift == 0.05


def test_official_network_reads_the_config_of_the_port():
    expected = HyenaNetwork(width=256, layers=4, max_length=32770, decay_shift=0.05)
    assert official_network(SMALL_32K_HF) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**SMALL_32K_HF, "hyena_order": 3}, "hyena_order is 3; only 2 is implemented"),
        ({**SMALL_32K_HF, "num_inner_mlps": 1}, "num_inner_mlps is 1; only 2 is implemented"),
        (
            {**SMALL_32K_HF, "d_inner": 1000},
            "d_inner is 1000; expected a multiple of d_model, 256",
        ),
        (
            {"hidden_size": 8},
            "the config has no 'd_model'; expected the config.json of a HyenaDNA network",
        ),
    ],
)
def test_official_network_refuses_other_networks_in_one_line(config, message):
    assert refused(official_network, config) == message


def test_official_network_reads_every_size():
    """Values other than the defaults, in both layouts."""
    sizes = {
        "vocabulary": 20,
        "vocabulary_multiple": 4,
        "width": 24,
        "layers": 5,
        "mlp_ratio": 3,
        "max_length": 99,
        "dropout": 0.3,
        "epsilon": 1e-3,
        "filter_features": 7,
        "filter_width": 31,
        "filter_frequency": 14.0,
    }
    common = {
        "vocab_size": 20,
        "pad_vocab_size_multiple": 4,
        "d_model": 24,
        "n_layer": 5,
        "d_inner": 72,
        "embed_dropout": 0.3,
        "layer_norm_epsilon": 1e-3,
    }
    layer = {"emb_dim": 7, "filter_order": 31}
    official = {**common, "layer": {**TINY_1K["layer"], **layer, "l_max": 99, "w": 14}}
    assert official_network(official) == HyenaNetwork(**sizes)
    ported = {**SMALL_32K_HF, **common, **layer, "max_seq_len": 99, "activation_freq": 14}
    assert official_network(ported) == HyenaNetwork(**sizes, decay_shift=0.05)
    optional = {"pad_vocab_size_multiple", "embed_dropout", "layer_norm_epsilon"}
    short = {name: value for name, value in official.items() if name not in optional}
    assert official_network(short) == HyenaNetwork(
        **{**sizes, "vocabulary_multiple": 1, "dropout": 0.1, "epsilon": 1e-5}
    )


@pytest.mark.parametrize(("vocabulary", "padded"), [(12, 16), (16, 16), (17, 24)])
def test_padded_vocabulary_is_the_next_multiple(vocabulary, padded):
    assert replace(HyenaNetwork(), vocabulary=vocabulary).padded_vocabulary == padded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"filter_features": 4}, "filter_features is 4; expected an odd number"),
        ({"embedding_std": 0.0}, "embedding_std is 0.0; expected a positive number"),
        ({"vocabulary": 11}, "vocabulary is 11; expected 12 or more, the tokenizer's ids"),
        ({"dropout": 1.5}, "dropout is 1.5; expected 0 to 1"),
    ],
)
def test_network_refuses_impossible_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        replace(HyenaNetwork(), **change)
