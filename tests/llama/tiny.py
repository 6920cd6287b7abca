"""Tiny language models, texts and runs of the tests."""

import gzip
import json
from dataclasses import replace

import torch

from dyt import Norm
from dyt_llama import tokenizers_io
from dyt_llama.config import Pretraining, Tokenization
from dyt_llama.network_config import Network
from dyt_llama.pretraining import pretrain
from dyt_llama.tokenization import tokenize
from matched.task import Context

CPU = torch.device("cpu")
OWN = Norm.own()
DYT = Norm.dyt(0.5, alpha0_at=(("*.input_layernorm", 1.5),))
NETWORK = Network(
    width=32, depth=3, heads=4, kv_heads=2, ffn=48, vocabulary=300, positions=16, norm_eps=1e-5
)
GLOSSES = Tokenization(data=("glosses",), vocabulary=300, held_out=0.05)
CONFIG = Pretraining(
    network=NETWORK,
    norm=DYT,
    embedding_scale=True,
    length=16,
    steps=12,
    batch=8,
    micro_batch=4,
    lr=1e-2,
    min_lr=1e-3,
    schedule="fms-fsdp",
    log_steps=4,
    eval_steps=6,
    eval_samples=5,
    eval_batch=2,
)

RMSNORM = {"norm": OWN, "embedding_scale": False}
"""Changes of ``CONFIG`` to the baseline arm."""


def context(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    return replace(Context(directory=directory, signature="0123456789ab"), **changes)


def tokenized(directory, config=GLOSSES, **changes):
    """Outcome of a tokenization in ``directory``; ``changes`` are those of its context."""
    return tokenize(context(directory, **changes), config)


def pretrained(directory, tokens, config=CONFIG, **changes):
    """Outcome of a pretraining in ``directory`` on the tokens of a run."""
    return pretrain(context(directory, needs={"tokens": tokens}, **changes), config)


def lines(directory):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


TEXTS = [f"Document {i} of a small text, with a number: {i * i}. Ünïcode 字." for i in range(60)]


def text_folder(folder, texts=TEXTS):
    """A folder with the same documents in three .jsonl files, one of them compressed."""
    folder.mkdir(parents=True)
    thirds = [texts[i * len(texts) // 3 : (i + 1) * len(texts) // 3] for i in range(3)]
    for number, third in enumerate(thirds):
        content = "".join(json.dumps({"text": text, "meta": 1}) + "\n" for text in third).encode()
        if number == 2:
            (folder / "2.jsonl.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{number}.jsonl").write_bytes(content)
    return folder


def tokenizer_json(path, vocabulary=300, **pieces):
    """A tokenizer.json trained on ``TEXTS``."""
    pieces = {"bos": "<s>", "eos": "</s>", **pieces}
    tokenizers_io.train(TEXTS, vocabulary, **pieces).save(str(path))
    return path
