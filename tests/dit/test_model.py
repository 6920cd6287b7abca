"""DiffusionTransformer: equality with the DiT release, initialization, and norm replacement."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dyt import DynamicTanh, Norm
from dyt_dit import release_weights
from dyt_dit.config import Network, Training
from dyt_dit.model import DiffusionTransformer, build, initialize, replace_norms
from matched import recipes
from matched.training import weights_digest

from . import formula

OFFICIAL = json.loads(Path(__file__).with_name("official.json").read_text(encoding="utf-8"))
"""Outputs of the release's own code for the weights and inputs of ``formula``."""


def paper_network(table, row):
    """Return the network of a row at paper scale."""
    run = recipes.load(table).scale("paper").runs[row]["LN"]
    return run.needs["samples"].needs["trained"].config.network


SIZES = {
    "B/4": paper_network("table3", "dit_b4"),
    "L/4": paper_network("table3", "dit_l4"),
    "XL/2": paper_network("table3", "dit_xl2"),
}
TINY = Network(input_size=8, channels=1, classes=10, patch_size=4, width=32, depth=2, heads=4)
CONFIG = Training(network=TINY, epochs=1, batch=8, micro_batch=8, lr=1e-3)


def model_with_formula_weights(network):
    model = DiffusionTransformer(network)
    names = release_weights.to_release(model, model.state_dict())
    del names[release_weights.POSITIONS]
    shapes = {name: tuple(t.shape) for name, t in names.items()}
    model.load_state_dict(release_weights.from_release(formula.weights(shapes)))
    return model.eval()


@pytest.mark.parametrize("name", SIZES)
def test_forward_matches_dit_release(name):
    model = model_with_formula_weights(replace(SIZES[name], input_size=8, depth=2))
    x, t, labels, _ = formula.inputs()
    with torch.no_grad():
        output = model(x, t, labels)
    expected = torch.tensor(OFFICIAL[name]["output"])
    torch.testing.assert_close(output[:, :, 3, 5].flatten(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "norms", "keys", "parameters"),
    [
        ("B/4", 25, 132, 130_475_648),
        ("L/4", 49, 252, 458_053_760),
        ("XL/2", 57, 292, 675_129_632),
    ],
)
def test_parameter_counts_match_dit_release(name, norms, keys, parameters):
    """DyT adds only one alpha per norm layer, because the LayerNorms have no affine part."""
    network = SIZES[name]
    with torch.device("meta"):
        model = DiffusionTransformer(network)
    release_keys = len(model.state_dict()) - 4 * network.depth + 1  # q, k, v as one; positions
    positions = model.transformer.pos_embed.pos_embed.numel()
    assert release_keys == keys
    # The release counts its fixed positions as parameters.
    count = sum(p.numel() for p in model.parameters()) + positions
    assert count == parameters
    paths = replace_norms(model, Norm.dyt(alpha0=0.5))
    assert len(paths) == norms
    assert sum(p.numel() for p in model.parameters()) + positions == count + norms
    assert not [m for m in model.modules() if isinstance(m, nn.LayerNorm)]


def test_initialize_follows_dit_paper():
    model = DiffusionTransformer(replace(TINY, width=256))
    torch.manual_seed(0)
    initialize(model)
    block = model.transformer.transformer_blocks[0]
    state = dict(model.named_parameters())
    for path in model.zero_initialized():
        assert not state[f"{path}.weight"].any()
    assert len(model.zero_initialized()) == TINY.depth + 2
    biases = [p for name, p in state.items() if name.endswith("bias")]
    assert biases and not any(bias.any() for bias in biases)
    # Query, key and value are initialized as one matrix with three times as many outputs.
    bound = (6 / (256 + 3 * 256)) ** 0.5
    for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v):
        assert 0.99 * bound < layer.weight.abs().max() <= bound
    bound = (6 / (256 + 4 * 256)) ** 0.5
    assert 0.99 * bound < block.ff.net[0].proj.weight.abs().max() <= bound
    patches = model.transformer.pos_embed.proj.weight
    assert 0.98 * (6 / (16 + 256)) ** 0.5 < patches.abs().max() <= (6 / (16 + 256)) ** 0.5
    assert state["embedder.class_embedder.embedding_table.weight"].std().item() == pytest.approx(
        0.02, rel=0.05
    )


def test_zero_init_decides_whether_initial_output_is_zero():
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([1, 10])
    for zero_init in (True, False):
        for norm in (Norm.own(), Norm.dyt(alpha0=0.5)):
            model, _ = build(replace(CONFIG, norm=norm, zero_init=zero_init))
            assert model(x, t, labels).any() != zero_init


def test_arms_share_weights_outside_norms_and_zero_initialized_layers():
    def digest(config, excluded=None):
        model, differing_layers = build(config)
        return weights_digest(model, differing_layers if excluded is None else excluded)

    ln, dyt = CONFIG, replace(CONFIG, norm=Norm.dyt(alpha0=0.5), zero_init=False)
    assert digest(ln) == digest(dyt)
    assert digest(ln) != digest(replace(dyt, seed=1))
    assert digest(ln, excluded=[]) != digest(dyt, excluded=[])
    assert digest(dyt, excluded=[]) == digest(dyt, excluded=[]), "only the seed decides"


def test_build_replaces_all_norms_and_keeps_modulation():
    model, differing_layers = build(replace(CONFIG, norm=Norm.dyt(alpha0=0.5), zero_init=False))
    layers = {path: m for path, m in model.named_modules() if isinstance(m, DynamicTanh)}
    assert sorted(layers) == [
        "transformer.norm_out",
        "transformer.transformer_blocks.0.norm1.norm",
        "transformer.transformer_blocks.0.norm3",
        "transformer.transformer_blocks.1.norm1.norm",
        "transformer.transformer_blocks.1.norm3",
    ]
    assert all([n for n, _ in m.named_parameters()] == ["alpha"] for m in layers.values())
    assert set(differing_layers) == {*layers, *model.zero_initialized()}


def test_network_never_drops_labels():
    """Labels are dropped with the batch, so both arms drop the same ones."""
    model, _ = build(replace(CONFIG, zero_init=False))
    x, t = torch.randn(64, 1, 8, 8), torch.full((64,), 500)
    labels = torch.zeros(64, dtype=torch.long)
    assert torch.equal(model.train()(x, t, labels), model.eval()(x, t, labels))
    assert not torch.equal(model(x, t, labels), model(x, t, torch.full_like(labels, 10)))


def test_deepcopy_is_independent():
    model, _ = build(replace(CONFIG, norm=Norm.dyt(alpha0=0.5), zero_init=False))
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([1, 10])
    before = model(x, t, labels)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    assert torch.equal(model(x, t, labels), before)
    assert not torch.equal(other(x, t, labels), before)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_size": 3}, "patch_size 3 does not divide input_size 8"),
        ({"heads": 5}, "width 32 is not a multiple of heads"),
        ({"width": 36, "heads": 9, "input_size": 0}, "input_size is 0; expected"),
        ({"depth": 1.5}, "depth is 1.5; expected a whole number"),
    ],
)
def test_network_config_rejects_invalid_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **sizes)
