"""Configs of a whole chain of runs on digits that takes seconds on one CPU core."""

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
    data=("digits",), autoencoder="pixels", image_size=8, flip=False, batch=256, images_per_file=512
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
    """Run a task in a directory, write its result as the harness does, and return its outcome."""
    outcome = task(context(directory, **where), config)
    if where.get("rank", 0) == 0:
        status = "diverged" if outcome.diverged else "done"
        write_json(directory / "result.json", {"outcome": status, "metrics": outcome.metrics})
    return outcome


def encoded(folder, **where):
    run(latents.encode, folder / "latents", ENCODING, **where)
    return folder / "latents"


def trained(folder, config, latents_run, **where):
    """Train on the latents of the run directory ``latents_run``."""
    return run(training.train, folder, config, needs={"latents": latents_run}, **where)


def sampled(folder, config, training_run, **where):
    """Sample with the weights of the run directory ``training_run``."""
    from dyt_dit import sampling

    return run(sampling.generate, folder, config, needs={"trained": training_run}, **where)


def fingerprint(directory):
    return json.loads((directory / "fingerprint.json").read_text())


def lines(directory):
    text = Path(directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def states(directory):
    """Load weights.pt of a training: "ema" and "model" → state dict, and the settings."""
    return torch.load(directory / "weights.pt", weights_only=True)


def in_a_process(work):
    """Call ``work`` in a forked process, so that its patches do not affect this one; return the
    exit status, or minus the signal that killed the process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
