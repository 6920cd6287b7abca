"""The chain of runs, shrunk until one CPU core computes it in seconds, on real digits."""

import json
import os
from pathlib import Path

import torch

from dyt import Norm
from dyt_dit import latents, training
from dyt_dit.config import Encoding, Network, Sampling, Training
from matched.files import write_json
from matched.task import Context

OWN, DYT = Norm.own(), Norm.dyt(alpha0=0.5)
NETWORK = Network(input_size=8, channels=1, classes=10, patch_size=4, width=32, depth=2, heads=4)
ENCODING = Encoding(
    data=("digits",), autoencoder="pixels", image_size=8, flip=False, batch=256, shard=512
)
TRAINING = Training(
    network=NETWORK,
    epochs=2,
    batch=128,
    micro_batch=64,
    lr=3e-3,
    schedule="constant",
    weight_decay=0.0,
    ema_decay=0.9,
    flip=0.0,
    held_out=100,
    eval_batch=32,
    log_steps=1,
)
SAMPLING = Sampling(network=NETWORK, autoencoder="pixels", steps=5, count=50, batch=16)


def context(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    return Context(directory=directory, signature=directory.name, **changes)


def run(task, directory, config, **where):
    """The outcome of a task in a directory, where it leaves its result as the harness does."""
    outcome = task(context(directory, **where), config)
    if where.get("rank", 0) == 0:
        word = "diverged" if outcome.diverged else "done"
        write_json(directory / "result.json", {"outcome": word, "metrics": outcome.metrics})
    return outcome


def encoded(folder, **where):
    run(latents.encode, folder / "latents", ENCODING, **where)
    return folder / "latents"


def trained(folder, config, there, **where):
    """Train on the latents that lie ``there``."""
    return run(training.train, folder, config, needs={"latents": there}, **where)


def sampled(folder, config, there, **where):
    """Sample from what has been trained ``there``."""
    from dyt_dit import sampling

    return run(sampling.generate, folder, config, needs={"trained": there}, **where)


def fingerprint(directory):
    return json.loads((directory / "fingerprint.json").read_text())


def lines(directory):
    text = Path(directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def states(directory):
    """What a training has left: part → state dict under the release's names, and the rest."""
    return torch.load(directory / "weights.pt", weights_only=True)


def in_a_process(work):
    """Its exit status, or minus the signal that killed it; what ``work`` patches stays in it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
