"""Tests of saving and loading converted networks of transformers, timm and diffusers."""

import json
from pathlib import Path

import pytest
import timm
import torch
from diffusers import DiTTransformer2DModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from dyt import (
    Derf,
    Norm,
    convert,
    load_pretrained,
    load_state_dict,
    save_pretrained,
    scale_embedding,
)

LLAMA = LlamaConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    tie_word_embeddings=True,
)
TOKENS = torch.arange(8).view(2, 4)


def test_load_pretrained_restores_a_transformers_model(tmp_path):
    model = LlamaForCausalLM(LLAMA)
    report = convert(model, Norm.dyt(0.2, alpha0_at=(("*.input_layernorm", 0.8),)))
    scale_embedding(model)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    save_pretrained(model.eval(), report, tmp_path)
    restored = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    again = load_pretrained(restored, tmp_path)
    assert again == report
    assert torch.equal(restored.eval()(TOKENS).logits, model(TOKENS).logits)
    assert restored.lm_head.weight is restored.model.embed_tokens.weight


def test_from_pretrained_refuses_a_saved_conversion(tmp_path):
    model = LlamaForCausalLM(LLAMA)
    save_pretrained(model, convert(model), tmp_path)
    with pytest.raises(OSError, match="no file named"):
        LlamaForCausalLM.from_pretrained(tmp_path)


def vit():
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 1}
    return timm.models.VisionTransformer(**sizes, num_classes=3)


def test_load_pretrained_restores_timm_with_calibration_and_skip(tmp_path):
    model, x = vit(), torch.randn(4, 3, 8, 8)
    report = convert(model, Norm.derf("calibrated"), skip="blocks.0", calibrate=x)
    save_pretrained(model.eval(), report, tmp_path)
    restored = vit()
    again = load_pretrained(restored, tmp_path)
    assert again.paths == report.paths
    assert isinstance(restored.blocks[0].norm1, nn.LayerNorm)
    assert isinstance(restored.norm, Derf)
    assert restored.norm.alpha0 == model.norm.alpha0 != 0.5
    assert torch.equal(restored.eval()(x), model(x))


def test_load_pretrained_restores_a_diffusers_model(tmp_path):
    sizes = {"num_attention_heads": 1, "attention_head_dim": 8, "in_channels": 4, "num_layers": 1}
    model = DiTTransformer2DModel(**sizes, out_channels=8, sample_size=4, norm_num_groups=1)
    save_pretrained(model, convert(model), tmp_path)
    config = DiTTransformer2DModel.load_config(tmp_path)
    restored = DiTTransformer2DModel.from_config(config)
    load_pretrained(restored, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)


def test_load_pretrained_refuses_other_networks_and_folders(tmp_path):
    with pytest.raises(ValueError, match=r"has no dyt\.json"):
        load_pretrained(vit(), tmp_path)
    with pytest.raises(ValueError, match="has no DyT layers"):
        save_pretrained(vit(), convert(vit()), tmp_path)
    model = vit()
    save_pretrained(model, convert(model), tmp_path)
    with pytest.raises(ValueError, match="Build the same network"):
        load_pretrained(nn.Sequential(nn.LayerNorm(8)), tmp_path)


def test_load_state_dict_names_the_missing_conversion():
    plain, converted = vit(), vit()
    norms = plain.state_dict()
    convert(converted)
    with pytest.raises(ValueError, match=r"This is a DyT checkpoint.*dyt\.convert\(model\) first"):
        load_state_dict(vit(), converted.state_dict())
    with pytest.raises(ValueError, match="checkpoint of the network with norm layers"):
        load_state_dict(converted, norms)
    load_state_dict(plain, norms)
    load_state_dict(converted, converted.state_dict())
    with pytest.raises(ValueError, match="Missing key"):
        load_state_dict(plain, {})
    with pytest.raises(ValueError, match="is on the meta device, where loading has no effect"):
        load_state_dict(converted.to("meta"), vit().state_dict())


def test_report_as_dict_json_and_rows():
    model = vit()
    report = convert(model, calibrate=torch.randn(4, 3, 8, 8))
    record = json.loads(report.to_json())
    assert record["norm"]["layer"] == "dyt"
    row = record["replacements"][0]
    assert row["path"] == "blocks.0.norm1"
    assert row["alpha0"] == report[0].fit.alpha
    assert row["error"] == report[0].fit.error
    assert [r["path"] for r in report.rows()] == list(report.paths)


def test_save_pretrained_keeps_the_earlier_weights_if_it_fails(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    report = convert(model)
    save_pretrained(model, report, tmp_path)
    before = (tmp_path / "dyt_weights.pt").read_bytes()

    def fail(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(model, report, tmp_path)
    assert (tmp_path / "dyt_weights.pt").read_bytes() == before


def test_save_pretrained_creates_folders_and_replaces_files(tmp_path):
    folder = tmp_path / "runs" / "one"
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    report = convert(model)
    for bias in (1.0, 2.0):
        nn.init.constant_(model[1].bias, bias)
        save_pretrained(model, report, folder)
    assert {path.name for path in folder.iterdir()} == {"dyt.json", "dyt_weights.pt"}
    restored = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    assert load_pretrained(restored, folder) == report
    assert restored[1].bias.tolist() == [2.0] * 4


def test_load_state_dict_refuses_a_network_partly_on_meta():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))
    with pytest.raises(ValueError) as error:
        load_state_dict(model, model.state_dict())
    assert str(error.value) == (
        "Sequential is on the meta device, where loading has no effect. Build it on a real device."
    )
