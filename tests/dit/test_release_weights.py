"""Conversion to and from the DiT release's state dicts, and rejected checkpoints."""

import argparse
from dataclasses import replace

import pytest
import torch

from dyt import Norm
from dyt_dit import release_weights
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
"""Names in the release's state dict of a network with one block."""

ALPHAS = ["blocks.0.norm1.alpha", "blocks.0.norm2.alpha", "final_layer.norm_final.alpha"]
"""Names that the authors' DyT patch adds."""


def release_state(model):
    return release_weights.to_release(model, model.state_dict())


def test_to_release_names_match_dit_release():
    model, _ = build(CONFIG)
    assert sorted(release_state(model)) == sorted(NAMES)
    model, _ = build(replace(CONFIG, norm=Norm.dyt(alpha0=0.5)))
    assert sorted(release_state(model)) == sorted([*NAMES, *ALPHAS])


@pytest.mark.parametrize("norm", [Norm.own(), Norm.dyt(alpha0=0.5)], ids=str)
def test_release_round_trip(norm):
    model, _ = build(replace(CONFIG, norm=norm))
    back = release_weights.from_release(release_state(model))
    assert sorted(back) == sorted(model.state_dict())
    assert all(torch.equal(back[name], t) for name, t in model.state_dict().items())


def test_to_release_keeps_qkv_order():
    model, _ = build(CONFIG)
    attention = model.transformer.transformer_blocks[0].attn1
    parts = [attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]
    assert torch.equal(release_state(model)["blocks.0.attn.qkv.weight"], torch.cat(parts))


@pytest.mark.parametrize("wrapped", ["plain", "training"])
def test_load_release_checkpoint(tmp_path, wrapped):
    """Released weights are a state dict; training checkpoints contain several and other values."""
    model, _ = build(CONFIG)
    state = release_state(model)
    other = {name: tensor + 1 for name, tensor in state.items()}
    arguments = argparse.Namespace(model="DiT-XL/2", epochs=1400)
    content = {"model": other, "ema": state, "opt": {}, "args": arguments}
    torch.save(state if wrapped == "plain" else content, tmp_path / "x.pt")
    loaded = DiffusionTransformer(NETWORK)
    release_weights.load(loaded, tmp_path / "x.pt")
    expected = model.state_dict()
    assert all(torch.equal(expected[name], t) for name, t in loaded.state_dict().items())


class TestRejectedCheckpoints:
    @pytest.fixture
    def model(self):
        return DiffusionTransformer(NETWORK)

    def refused(self, model, tmp_path, content, message):
        before = {name: t.clone() for name, t in model.state_dict().items()}
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message):
            release_weights.load(model, tmp_path / "x.pt")
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())

    def test_load_refuses_another_network(self, model, tmp_path):
        other, _ = build(replace(CONFIG, network=replace(NETWORK, depth=2, width=16)))
        message = rf"^{tmp_path}/x.pt does not fit Network\(.*\): \d+ keys differ, the first: "
        message += "([^;]+; ){2}[^;]+. Nothing was loaded$"
        self.refused(model, tmp_path, release_state(other), message)

    def test_load_refuses_another_norm(self, model, tmp_path):
        other, _ = build(replace(CONFIG, norm=Norm.dyt(alpha0=0.5)))
        message = "3 keys differ, the first: blocks.0.norm1.alpha is unknown to the model"
        self.refused(model, tmp_path, release_state(other), message)

    def test_load_refuses_other_positional_embeddings(self, model, tmp_path):
        state = release_state(model)
        state["pos_embed"] = state["pos_embed"].flip(1)
        self.refused(model, tmp_path, state, "other positions than the sine-cosine ones")

    @pytest.mark.parametrize("shift", [0.9e-5, -0.9e-5])
    def test_load_accepts_positions_in_float32(self, model, tmp_path, shift):
        state = release_state(model)
        zero = state["pos_embed"] == 0  # where the tolerance is not relative
        state["pos_embed"][zero] = shift
        torch.save(state, tmp_path / "x.pt")
        release_weights.load(model, tmp_path / "x.pt")
        state["pos_embed"][zero] = 1.3 * shift
        self.refused(model, tmp_path, state, "other positions than the sine-cosine ones")

    def test_load_refuses_file_without_weights(self, model, tmp_path):
        message = "has no weights; expected a state dict of the DiT release, or one under 'ema'$"
        self.refused(model, tmp_path, {"ema": 3}, message)
        self.refused(model, tmp_path, [torch.zeros(1)], message)
        self.refused(model, tmp_path, {"pos_embed": 3}, message)

    def test_load_refuses_file_that_is_no_checkpoint(self, model, tmp_path):
        (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
        with pytest.raises(ValueError, match=r"text\.pt cannot be read as a torch checkpoint"):
            release_weights.load(model, tmp_path / "text.pt")
        with pytest.raises(ValueError, match="there is no checkpoint"):
            release_weights.load(model, tmp_path / "none.pt")
