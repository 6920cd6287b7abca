"""Network: converted norms, parameter counts, and equal initial weights of both arms."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch._subclasses import FakeTensorMode

from dyt import DynamicTanh, Norm
from dyt_wav2vec import fairseq_compat, model
from dyt_wav2vec.config import BASE, LARGE, Network
from dyt_wav2vec.model import build, model_overrides, replace_norms
from matched.training import reseed, weights_digest

TINY = Network(
    conv_feature_layers=((16, 10, 5), (16, 3, 2), (16, 3, 2)),
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    final_dim=8,
    latent_vars=6,
    conv_pos=8,
    conv_pos_groups=4,
    num_negatives=5,
)
SIZES = {"Base": BASE, "Large": LARGE}
BOTH = pytest.mark.parametrize("first", [False, True], ids=["post-norm", "pre-norm"])


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def build_fake(network, norm):
    """Build without values: those of Large would take seconds and a gigabyte."""
    with FakeTensorMode():
        return build(network, norm, seed=0)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def count_by_hand(network):
    """Count the parameters of wav2vec 2.0 with LayerNorm from the paper's description."""

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    width, inner, final = (
        network.encoder_embed_dim,
        network.encoder_ffn_embed_dim,
        network.final_dim,
    )
    channels = [1, *(layer[0] for layer in network.conv_feature_layers)]
    kernels = [layer[1] for layer in network.conv_feature_layers]
    extractor = sum(a * b * k for a, b, k in zip(channels[:-1], channels[1:], kernels, strict=True))
    features = channels[-1]
    group_norm, norm, feature_norm = 2 * channels[1], 2 * width, 2 * features
    mask = width
    entries = network.latent_groups * network.latent_vars
    codebooks = entries * (final // network.latent_groups) + linear(features, entries)
    targets, predictions = linear(final, final), linear(width, final)
    # Weight norm along the kernel: one magnitude per kernel position.
    positions = width * (width // network.conv_pos_groups) * network.conv_pos + network.conv_pos
    positions += width
    block = 4 * linear(width, width) + linear(width, inner) + linear(inner, width) + 2 * norm
    return (
        extractor
        + group_norm
        + feature_norm
        + linear(features, width)
        + mask
        + codebooks
        + targets
        + predictions
        + positions
        + network.encoder_layers * block
        + norm
    )


@pytest.mark.parametrize(
    ("size", "norms", "count"), [("Base", 26, 95_044_608), ("Large", 50, 317_380_864)]
)
@BOTH
def test_build_norm_and_parameter_counts(size, norms, count, first):
    """DyT has γ and β like LN, plus α: one more parameter for each converted layer.

    There are two norms in every block, one in the encoder and one on the features; pre-norm and
    post-norm only differ in their positions. Base has its published number of parameters. The
    published Large has 9,728 more, from LayerNorms and biases in its feature extractor
    (extractor_mode "layer_norm", conv_bias), which the release for DyT does not enable.
    """
    network = replace(SIZES[size], layer_norm_first=first)
    plain, paths = build_fake(network, Norm.own())
    dyt, converted = build_fake(network, Norm.dyt(alpha0=0.5))
    assert paths == converted
    assert len(converted) == 2 * network.encoder_layers + 2 == norms
    assert parameters(plain) == count_by_hand(network) == count
    assert parameters(dyt) - parameters(plain) == norms


def test_build_converts_the_intended_norms_only():
    model, norms = build(TINY, Norm.dyt(alpha0=0.7), seed=0)
    blocks = ("self_attn_layer_norm", "final_layer_norm")
    assert set(norms) == {
        *(f"encoder.layers.{i}.{name}" for i in range(2) for name in blocks),
        "encoder.layer_norm",
        "layer_norm",
    }
    layers = [model.get_submodule(path) for path in norms]
    assert all(type(layer) is DynamicTanh for layer in layers)
    assert [layer.alpha.item() for layer in layers] == [pytest.approx(0.7)] * 6
    kinds = Counter(type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__)
    assert kinds == {"Fp32GroupNorm": 1}  # of the feature extractor


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_replace_norms_keeps_layer_norms_of_feature_extractor():
    wav2vec = fairseq_compat.load().models.wav2vec
    config = wav2vec.Wav2Vec2Config(**model_overrides(TINY), extractor_mode="layer_norm")
    model = wav2vec.Wav2Vec2Model(config)
    norms = replace_norms(model, Norm.dyt())
    assert len(norms) == 6
    left = [path for path, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert len(left) == 3 and all(path.startswith("feature_extractor.") for path in left)


@BOTH
def test_forward_uses_every_converted_norm(first):
    network = replace(TINY, layer_norm_first=first, encoder_layerdrop=0.0)
    model, norms = build(network, Norm.dyt(), seed=0)
    used = []
    for path in norms:
        model.get_submodule(path).register_forward_hook(
            lambda module, _, output, path=path: used.append(path)
        )
    losses(model)
    assert sorted(used) == sorted(norms)
    # The encoder's norm is applied before the blocks (post-norm) or after them (pre-norm).
    assert used.index("encoder.layer_norm") == (len(norms) - 1 if first else 1)


def losses(model):
    """Return the contrastive loss and the extra losses for two short waveforms."""
    reseed(0, "step", 0, 0)
    waves = torch.randn(2, 2400, generator=torch.Generator().manual_seed(0))
    out = model(waves)
    logits, targets = model.get_logits(out), model.get_targets(None, out)
    contrastive = nn.functional.cross_entropy(logits.float(), targets)
    return torch.stack([contrastive, *model.get_extra_losses(out)])


@BOTH
@pytest.mark.parametrize("norm", [Norm.own(), Norm.dyt(alpha0=0.5)], ids=str)
def test_losses_are_finite_and_reach_every_norm(norm, first):
    network = replace(TINY, layer_norm_first=first, encoder_layerdrop=0.0)
    model, norms = build(network, norm, seed=0)
    values = losses(model)
    assert values.isfinite().all()
    (values[0] + 0.1 * values[1] + 10 * values[2]).backward()
    for path in norms:
        for name, parameter in model.get_submodule(path).named_parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.any(), f"{path}.{name}"


def test_build_gives_arms_same_weights_outside_norms():
    plain, norms = build(TINY, Norm.own(), seed=3)
    dyt, same = build(TINY, Norm.dyt(alpha0=0.5), seed=3)
    other, _ = build(TINY, Norm.own(), seed=4)
    assert norms == same
    assert weights_digest(plain, norms) == weights_digest(dyt, norms)
    assert weights_digest(plain, norms) != weights_digest(other, norms)
    # The norm layers have the same γ and β.
    state = dyt.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert set(state) - set(plain.state_dict()) == {f"{path}.alpha" for path in norms}


def test_base_equals_fairseqs_shipped_config():
    """Compare all model fields: those of fairseq's YAML, and its defaults for the others."""
    fairseq = fairseq_compat.load()
    folder = Path(fairseq.__file__).parent / "examples/wav2vec/config/pretraining"
    text = (folder / "wav2vec2_base_librispeech.yaml").read_text(encoding="utf-8")
    stock = yaml.safe_load(text)["model"]
    stock.pop("_name")
    config = fairseq.models.wav2vec.Wav2Vec2Config
    ours, shipped = vars(config(**model_overrides(BASE))), vars(config(**stock))
    ours["conv_feature_layers"] = eval(ours["conv_feature_layers"])
    shipped["conv_feature_layers"] = eval(shipped["conv_feature_layers"])
    assert ours == shipped


def test_large_differs_from_base_as_in_the_release():
    base, large = model_overrides(BASE), model_overrides(LARGE)
    assert {name: large[name] for name in large if large[name] != base[name]} == {
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
        "layer_norm_first": True,
        "final_dim": 768,
        "latent_temp": (2.0, 0.1, 0.999995),
        "attention_dropout": 0.0,
        "encoder_layerdrop": 0.2,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_layers": 0}, "encoder_layers is 0; expected a whole number of 1 or more"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads 5 does not divide"),
        ({"conv_pos_groups": 5}, "conv_pos_groups 5 does not divide encoder_embed_dim 32"),
        ({"final_dim": 7}, "latent_groups 2 does not divide final_dim 7"),
        ({"dropout": 1.5}, "dropout is 1.5; expected 0 to 1"),
        ({"conv_feature_layers": ((16, 10),)}, r"expected \(channels, kernel, stride\) per layer"),
    ],
)
def test_network_refuses_invalid_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_reseed_seeds_the_generators_of_numpy_and_torch():
    draws = []
    for seed in (3, 3, 4):
        model.reseed(seed)
        draws.append((np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[2][0] and draws[0][1] != draws[2][1]
