"""Names of the DiT release: written and read back, and files that are something else."""

import argparse
from dataclasses import replace

import pytest
import torch

from dyt import Norm
from dyt_dit import official
from dyt_dit.config import Network, Training
from dyt_dit.model import DiffusionTransformer, build

NETWORK = Network(input_size=8, classes=10, patch_size=4, width=32, depth=1, heads=4)
CONFIG = Training(network=NETWORK, epochs=1, batch=8, micro_batch=8, lr=1e-3, zero_init=False)

LAYERS = (
    "x_embedder.proj",
    "t_embedder.mlp.0",
    "t_embedder.mlp.2",
    "blocks.0.attn.qkv",
    "blocks.0.attn.proj",
    "blocks.0.mlp.fc1",
    "blocks.0.mlp.fc2",
    "blocks.0.adaLN_modulation.1",
    "final_layer.linear",
    "final_layer.adaLN_modulation.1",
)
NAMES = ["pos_embed", "y_embedder.embedding_table.weight"]
NAMES += [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
"""Of the release, for one block."""

ALPHAS = ["blocks.0.norm1.alpha", "blocks.0.norm2.alpha", "final_layer.norm_final.alpha"]
"""What their patch for DyT adds."""


def names_of(model):
    return official.to_official(model, model.state_dict())


def test_the_names_are_those_of_the_release():
    model, _ = build(CONFIG)
    assert sorted(names_of(model)) == sorted(NAMES)
    model, _ = build(replace(CONFIG, norm=Norm.dyt(alpha0=0.5)))
    assert sorted(names_of(model)) == sorted([*NAMES, *ALPHAS])


@pytest.mark.parametrize("norm", [Norm.own(), Norm.dyt(alpha0=0.5)], ids=str)
def test_there_and_back_nothing_changes(norm):
    model, _ = build(replace(CONFIG, norm=norm))
    back = official.from_official(names_of(model))
    assert sorted(back) == sorted(model.state_dict())
    assert all(torch.equal(back[name], t) for name, t in model.state_dict().items())


def test_query_key_and_value_keep_their_order():
    model, _ = build(CONFIG)
    attention = model.transformer.transformer_blocks[0].attn1
    parts = [attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]
    assert torch.equal(names_of(model)["blocks.0.attn.qkv.weight"], torch.cat(parts))


@pytest.mark.parametrize("wrapped", ["plain", "training"])
def test_a_checkpoint_of_the_release_is_loaded(tmp_path, wrapped):
    """Released weights are a state dict; checkpoints of their training hold several, and more."""
    model, _ = build(CONFIG)
    state = names_of(model)
    other = {name: tensor + 1 for name, tensor in state.items()}
    arguments = argparse.Namespace(model="DiT-XL/2", epochs=1400)
    content = {"model": other, "ema": state, "opt": {}, "args": arguments}
    torch.save(state if wrapped == "plain" else content, tmp_path / "x.pt")
    loaded = DiffusionTransformer(NETWORK)
    official.load(loaded, tmp_path / "x.pt")
    expected = model.state_dict()
    assert all(torch.equal(expected[name], t) for name, t in loaded.state_dict().items())


class TestWhatIsRefused:
    @pytest.fixture
    def model(self):
        return DiffusionTransformer(NETWORK)

    def refused(self, model, tmp_path, content, message):
        before = {name: t.clone() for name, t in model.state_dict().items()}
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message):
            official.load(model, tmp_path / "x.pt")
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())

    def test_another_network(self, model, tmp_path):
        other, _ = build(replace(CONFIG, network=replace(NETWORK, depth=2, width=16)))
        self.refused(model, tmp_path, names_of(other), "x.pt is of another network .* keys differ")

    def test_another_norm(self, model, tmp_path):
        other, _ = build(replace(CONFIG, norm=Norm.dyt(alpha0=0.5)))
        message = "3 keys differ, the first: blocks.0.norm1.alpha is unknown to the model"
        self.refused(model, tmp_path, names_of(other), message)

    def test_other_positions(self, model, tmp_path):
        state = names_of(model)
        state["pos_embed"] = state["pos_embed"].flip(1)
        self.refused(model, tmp_path, state, "other positions than the sine-cosine ones")

    def test_no_weights(self, model, tmp_path):
        self.refused(model, tmp_path, {"ema": 3}, "holds no weights")
        self.refused(model, tmp_path, [torch.zeros(1)], "holds no weights")

    def test_no_checkpoint(self, model, tmp_path):
        (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
        with pytest.raises(ValueError, match=r"text\.pt cannot be read as a checkpoint"):
            official.load(model, tmp_path / "text.pt")
        with pytest.raises(ValueError, match="there is no checkpoint"):
            official.load(model, tmp_path / "none.pt")
