"""Pretrained networks and scoring runs of the zero-shot tests.

python zero_shot_runs.py DIRECTORY PRETRAINED FOLDER: one process of a run, started by
tests/processes.py.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from llama.tiny import CONFIG, CPU, NETWORK, OWN, context

from dyt_llama import weights, zero_shot
from dyt_llama.config import ZeroShot
from dyt_llama.model import build
from dyt_llama.token_data import Manifest

LONG = replace(NETWORK, depth=2, positions=1024, std=0.08)
"""A network with room for TruthfulQA's prompt, and weights whose choices are not all alike."""
ALL = ZeroShot(batch=1, precision="fp32")


def trained(directory, tokens, norm=OWN, network=LONG, metrics=(("loss", 1.5),)):
    """Directory of a finished pretraining of a network with random weights."""
    scale = norm != OWN
    model = build(network, norm, seed=5, device=CPU, embedding_scale=scale).model
    config = replace(CONFIG, norm=norm, network=network, embedding_scale=scale, length=16)
    where, manifest = context(directory), Manifest.read(tokens)
    weights.save(where, model, config, manifest)
    weights.save_tokenizer(where, tokens, manifest)
    result = {"outcome": "done", "metrics": dict(metrics)}
    (directory / "result.json").write_text(json.dumps(result))
    return directory


def scored(directory, pretrained, folder, config=ALL, **changes):
    """Outcome of a scoring in ``directory``."""
    changes = {"needs": {"pretrained": pretrained}, "data": {"zero-shot": folder}, **changes}
    return zero_shot.score(context(directory, **changes), config)


if __name__ == "__main__":
    torch.set_num_threads(1)
    directory, pretrained, folder = map(Path, sys.argv[1:])
    rank = int(os.environ["RANK"])
    outcome = scored(
        directory, pretrained, folder, rank=rank, local_rank=rank, world_size=2, signature="two"
    )
    (directory / f"outcome-{rank}.json").write_text(json.dumps(dict(outcome.metrics)))
