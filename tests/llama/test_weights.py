"""Folders of transformers: weights and tokenizers written, read strictly, and refused."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from dyt_llama import weights
from dyt_llama.model import build
from dyt_llama.token_data import Manifest
from dyt_llama.tokenizers_io import load as load_tokenizer_file

from ..messages import refused
from .tiny import CONFIG, CPU, DYT, NETWORK, OWN, context

MANIFEST = Manifest(version=1, tokenizer="hash", vocabulary=300, bos=0, eos=1, splits={})
TOKENS = (torch.arange(20).reshape(2, 10) * 13 + 1) % NETWORK.vocabulary


def saved(directory, norm=DYT, network=NETWORK):
    """A network with unusual weights, saved; and the folder of its weights."""
    scale = norm == DYT
    model = build(network, norm, seed=5, device=CPU, embedding_scale=scale).model
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.01 * number)
    config = replace(CONFIG, norm=norm, network=network, embedding_scale=scale)
    weights.save(context(directory), model, config, MANIFEST)
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


def test_load_in_bfloat16_keeps_rotary_frequencies(tmp_path):
    model, folder = saved(tmp_path)
    half = weights.load(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    expected = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(half.state_dict()[name], expected[name]) for name in expected)


@pytest.mark.parametrize("norm", [OWN, DYT], ids=str)
def test_loaded_network_generates_its_most_likely_tokens(tmp_path, norm):
    model, folder = saved(tmp_path, norm)
    loaded, ids = weights.load(folder), TOKENS[:1, :4]
    generated = loaded.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=5,
        do_sample=False,
        use_cache=True,
        pad_token_id=1,
    )
    expected = ids
    with torch.no_grad():
        while expected.shape[1] < 9 and expected[0, -1] != 1:
            expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generated, expected) and expected.shape[1] > 4
    assert loaded.generation_config.eos_token_id == 1


def test_saved_tokenizer_puts_bos_before_a_text(tmp_path, glosses_run):
    """Also if the user's does not; transformers loads it with the same ids."""
    run = tmp_path / "tokens-run"
    shutil.copytree(glosses_run / "tokens", run / "tokens")
    file = run / "tokens" / "tokenizer.json"
    original = load_tokenizer_file(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    _, folder = saved(tmp_path)
    weights.save_tokenizer(context(tmp_path), run, MANIFEST)
    text = "a small fish, i.e. <s> Ünïcode"
    expected = original.encode(text).ids
    assert expected[0] == 0 and weights.load_tokenizer(folder)(text).input_ids == expected
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded(text).input_ids == expected
    assert (loaded.bos_token_id, loaded.eos_token_id) == (0, 1)


def test_folder_without_tokenizer_is_refused(tmp_path):
    _, folder = saved(tmp_path)
    assert refused(weights.load_tokenizer, folder) == (
        f"{folder} has no tokenizer.json; copy the folder again, or train the network again"
    )


def test_tokenizer_without_bos_is_refused(tmp_path, glosses_run):
    _, folder = saved(tmp_path)
    weights.save_tokenizer(context(tmp_path), glosses_run, MANIFEST)
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
    }
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    assert refused(weights.load_tokenizer, folder) == (
        f"the tokenizer in {folder} does not begin a text with <s>, but the network was trained "
        "with it, and would score badly; restore tokenizer.json of the training run"
    )


@pytest.mark.parametrize("norm", [OWN, DYT], ids=str)
def test_saved_folder_describes_network_norm_and_tokenizer(tmp_path, norm):
    _, folder = saved(tmp_path, norm)
    assert json.loads((folder / "norm.json").read_text()) == {
        "norm": json.loads(json.dumps(asdict(norm))),
        "embedding_scale": norm == DYT,
        "network": asdict(NETWORK),
        "tokenizer": "hash",
        "bos": 0,
        "eos": 1,
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)
    loaded = weights.load(folder)
    for settings in (loaded.config, loaded.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id) == (0, 1)


@pytest.mark.parametrize(("norm", "stem"), [(OWN, "model"), (DYT, "dyt_model")], ids=str)
def test_index_names_the_file_of_every_weight(tmp_path, monkeypatch, norm, stem):
    """Files are filled up to the limit, as transformers does."""
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", 4 * 300 * 32 + 4 * 32 * 32)
    model, folder = saved(tmp_path, norm)
    state = model.state_dict()
    index = json.loads((folder / f"{stem}.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 4 * sum(map(torch.numel, state.values()))}
    assert list(index["weight_map"]) == list(state)
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"{stem}-{n:05d}.safetensors" for n in range(1, len(files) + 1)]
    sizes = []
    for file in files:
        tensors = load_file(folder / file)
        assert set(tensors) == {n for n, f in index["weight_map"].items() if f == file}
        sizes.append(4 * sum(map(torch.numel, tensors.values())))
    assert max(sizes) <= 4 * 300 * 32 + 4 * 32 * 32 and len(files) == 5
    with safe_open(folder / files[0], framework="pt") as content:
        assert content.metadata() == {"format": "pt"}
    index_file = folder / f"{stem}.safetensors.index.json"
    index_file.write_text(index_file.read_text()[:100])
    assert refused(weights.load, folder).startswith(f"{index_file} is not valid JSON (")


def test_weights_of_another_size_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    record = json.loads((folder / "norm.json").read_text())
    record["network"] |= {"depth": 4, "ffn": 64}
    (folder / "norm.json").write_text(json.dumps(record))
    message = refused(weights.load, folder)
    # Three layers with three matrices each, and the eleven tensors of the fourth layer.
    network = f"the weights in {folder} are those of another network: 20 keys differ, the first: "
    assert message.startswith(network)
    assert "mlp.gate_proj.weight is (48, 32) in it and (64, 32) here" in message
    assert message.count("; ") == 2


def test_weights_of_another_norm_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    own = build(NETWORK, OWN, seed=0, device=CPU).model
    with pytest.raises(ValueError, match=r"model.embed_tokens.scale is unknown to the model"):
        weights.load_tensors(own, folder, "dyt_model")


def test_weights_of_another_tokenizer_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    assert refused(weights.load, folder, tokenizer="other") == (
        f"the network in {folder} was trained with the tokenizer hash, not with other; use its own"
    )


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("norm.json", None, "{} has no norm.json; expected the weights of a pretraining run"),
        (
            "dyt_model.safetensors",
            None,
            "there is no file {}/dyt_model.safetensors; copy the folder again",
        ),
        ("dyt_model.safetensors", lambda b: b[:200], "{}/dyt_model.safetensors is damaged ("),
    ],
)
def test_damaged_weights_are_named(tmp_path, name, damage, message):
    _, folder = saved(tmp_path)
    path = folder / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    found = refused(weights.load, folder)
    assert found.startswith(message.format(folder))
    assert found.endswith("); copy it again") or found == message.format(folder)
