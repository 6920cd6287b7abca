"""Tests of `fold` on whole networks: a ViT, a LLaMA, and torch's encoder."""

import pytest
import timm
import torch
import transformers as hf
from torch import nn

from dyt import Norm, convert

from .folding_checks import EXAMPLE, X, assert_reason, fold_and_compare, randomized


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2
    )


@EXAMPLE
@pytest.mark.parametrize("norm", [Norm.dyt(), Norm.derf()], ids=str)
def test_fold_vit(norm, example):
    net = vit()
    convert(net, norm)
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    # The trace does not follow the view of the class token, between the last layer and the head.
    report = fold_and_compare(randomized(net), images, folded=7 if example else 6, example=example)
    assert report[0].into == ("blocks.0.attn.qkv",)
    assert report[1].into == ("blocks.0.mlp.fc1",)
    assert report[6].into == (("head",) if example else ())


def llama(**options):
    config = hf.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=32,
        **options,
    )
    net = hf.LlamaForCausalLM(config)
    convert(net)
    return randomized(net)


TOKENS = torch.arange(2 * 6).view(2, 6)


@pytest.mark.parametrize("tied", [False, True])
def test_fold_llama(tied):
    net = llama(tie_word_embeddings=tied)
    biases = [name for name, _ in net.named_parameters() if name.endswith("bias")]
    report = fold_and_compare(net, input_ids=TOKENS, folded=4 if tied else 5)
    assert report[0].into == tuple(f"model.layers.0.self_attn.{name}_proj" for name in "qkv")
    assert report[1].into == tuple(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up"))
    assert [name for name, _ in net.named_parameters() if name.endswith("bias")] == biases == []
    if tied:
        assert_reason(report, "lm_head shares its weight")


def test_fold_transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    convert(net)
    report = fold_and_compare(randomized(net), X, folded=2)
    assert [f.into for f in report] == [
        (),
        ("layers.0.linear1",),
        (),
        ("layers.1.linear1",),
    ]
