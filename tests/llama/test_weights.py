"""Weights in transformers' format: written, read strictly, divided over files, and refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from dyt_llama import weights
from dyt_llama.model import build

from .tiny import CONFIG, CPU, DYT, NETWORK, OWN, context

TOKENS = (torch.arange(20).reshape(2, 10) * 13 + 1) % NETWORK.vocabulary


def saved(directory, norm=DYT, network=NETWORK):
    """A network with unusual weights, saved; and the folder of its weights."""
    scale = norm == DYT
    model = build(network, norm, seed=5, device=CPU, embedding_scale=scale).model
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.01 * number)
    config = replace(CONFIG, norm=norm, network=network, embedding_scale=scale)
    weights.save(context(directory), model, config, "hash")
    return model, directory / "weights"


def same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("norm", [OWN, DYT], ids=str)
@pytest.mark.parametrize("limit", [5 * 10**9, 10_000], ids=["one file", "several files"])
def test_load_restores_the_saved_network(tmp_path, monkeypatch, norm, limit):
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", limit)
    model, folder = saved(tmp_path, norm)
    assert (len(list(folder.glob("*.safetensors"))) > 3) == (limit == 10_000)
    loaded = weights.load(folder, tokenizer="hash")
    assert same_weights(model, loaded)
    assert torch.equal(model(TOKENS).logits, loaded(TOKENS).logits)


@pytest.mark.parametrize("limit", [5 * 10**9, 10_000], ids=["one file", "several files"])
def test_transformers_loads_rmsnorm_networks(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", limit)
    model, folder = saved(tmp_path, OWN)
    loaded = LlamaForCausalLM.from_pretrained(folder)
    assert same_weights(model, loaded)
    assert torch.equal(model(TOKENS).logits, loaded(TOKENS).logits)


def test_transformers_refuses_dyt_networks(tmp_path):
    """It would load γ into RMSNorms, and leave α and the embedding scale out."""
    _, folder = saved(tmp_path, DYT)
    with pytest.raises(OSError, match="no file named"):
        LlamaForCausalLM.from_pretrained(folder)
    names = load_file(folder / "dyt_model.safetensors").keys()
    assert {"model.embed_tokens.scale", "model.norm.alpha", "lm_head.weight"} <= names


def test_weights_of_another_size_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    record = json.loads((folder / "norm.json").read_text())
    record["network"] |= {"depth": 4, "ffn": 64}
    (folder / "norm.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="are those of another network") as error:
        weights.load(folder)
    assert "mlp.gate_proj.weight is (48, 32) in it and (64, 32) here" in str(error.value)
    assert "more" in str(error.value)


def test_weights_of_another_norm_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    own = build(NETWORK, OWN, seed=0, device=CPU).model
    with pytest.raises(ValueError, match=r"model.embed_tokens.scale is unknown to the model"):
        weights.load_tensors(own, folder, "dyt_model")


def test_weights_of_another_tokenizer_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    with pytest.raises(ValueError, match="was trained with the tokenizer hash, not with other"):
        weights.load(folder, tokenizer="other")


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("norm.json", None, "has no norm.json; expected the weights of a pretraining run"),
        ("dyt_model.safetensors", None, "there is no file .*dyt_model.safetensors"),
        ("dyt_model.safetensors", lambda b: b[:200], "is damaged"),
    ],
)
def test_damaged_weights_are_named(tmp_path, name, damage, message):
    _, folder = saved(tmp_path)
    path = folder / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        weights.load(folder)
