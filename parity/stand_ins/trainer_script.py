"""A script of transformers' Trainer, as its examples are written: a small LLaMA."""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
)
model = LlamaForCausalLM(config)
tokens = torch.randint(64, (12, 16), generator=torch.Generator().manual_seed(0))
arguments = TrainingArguments(
    sys.argv[1],
    max_steps=3,
    per_device_train_batch_size=4,
    use_cpu=True,
    report_to=[],
    logging_steps=1,
    save_strategy="no",
)
Trainer(model, arguments, train_dataset=[{"input_ids": t, "labels": t} for t in tokens]).train()
