"""Tests of converted networks with transformers: its initialization, its Trainer, tied weights."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from dyt import Norm, convert, param_groups

from .test_training_helpers import decay_by_name, vit


def test_convert_keeps_tied_weights_and_offsets_them_once():
    net = nn.Sequential(GemmaRMSNorm(4), GemmaRMSNorm(4))
    net[1].weight = net[0].weight
    nn.init.constant_(net[0].weight, 0.5)
    convert(net, copy_affine=True)
    assert net[0].weight is net[1].weight
    assert net[0].weight.tolist() == [1.5] * 4


def test_transformers_initialization_of_a_meta_model():
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    convert(model, Norm.dyt(0.7))
    model.to_empty(device="cpu")
    model.apply(model._init_weights)
    assert model.model.norm.alpha.item() == pytest.approx(0.7)
    assert model.model.norm.weight.tolist() == [1.0] * 8


def test_param_groups_with_trainer(tmp_path):
    model = vit()
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.1))
    arguments = TrainingArguments(tmp_path, max_steps=1, report_to=[], use_cpu=True)
    trainer = Trainer(model, arguments, optimizers=(optimizer, None))
    trainer.create_optimizer_and_scheduler(1)
    assert decay_by_name(model, trainer.optimizer.param_groups)["norm.weight"] == 0
