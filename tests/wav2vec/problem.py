"""Pretraining of one second that uses every kind of randomness, and helpers to run it."""

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch

from dyt import Norm
from dyt_wav2vec.config import Network, Preparation, Pretraining
from dyt_wav2vec.pretraining import pretrain
from matched import signals
from matched.task import Context

SIGNATURE = "abcdef012345"
OWN, DYT = Norm.own(), Norm.dyt()
SPEECH = Preparation(data="synthetic-speech", shuffle_seed=3, train=9, valid=5, voices=3)

# 5 micro-batches of 2 utterances each (the last one has 1) make 3 updates per epoch, the third of
# which has 1 micro-batch: epochs end after updates 3 and 6. Validation has 3 micro-batches.
CONFIG = Pretraining(
    seed=3,
    norm=DYT,
    data="synthetic-speech",
    network=Network(
        conv_feature_layers=((16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2),
        encoder_layers=2,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        final_dim=8,
        latent_vars=6,
        conv_pos=8,
        conv_pos_groups=4,
        num_negatives=5,
        encoder_layerdrop=0.3,
    ),
    updates=7,
    micro_batches_per_update=2,
    max_tokens=24_000,
    max_sample_size=12_000,
    min_sample_size=8_000,
    lr=2e-3,
    warmup_updates=3,
    precision="fp32",
    eval_updates=4,
    eval_passes=2,
    log_updates=2,
)


# A block that all micro-batches of an update skip has no gradient in one process but a gradient of
# zeros in two, for which Adam still updates it with its momentum.
NO_LAYERDROP = replace(CONFIG, network=replace(CONFIG.network, encoder_layerdrop=0.0))
SIZE = 43_000  # 7 of the 9 utterances are this long
# 7 micro-batches of 1 utterance: in the second update of an epoch, the second of two processes has
# 1 micro-batch instead of 2.
UNEVEN = replace(
    NO_LAYERDROP,
    micro_batches_per_update=4,
    updates=4,
    max_tokens=SIZE,
    max_sample_size=SIZE,
    min_sample_size=SIZE,
)


class Killed(BaseException):
    """Stand-in for whatever kills a process in the middle of a run."""


def kill(*_):
    raise Killed


def request_stop(*_):
    """Send this process the preemption signal, as Slurm does."""
    os.kill(os.getpid(), signals.PREEMPTION_SIGNAL)
    while signals.stop_signal() is None:
        time.sleep(0.001)


def set_weight_to_nan(trainer, *_):
    """Set a weight to NaN, which makes the gradients NaN."""
    with torch.no_grad():
        trainer.get_model().final_proj.weight[0, 0] = float("nan")


@contextmanager
def before_update(done, act):
    """Call ``act(trainer, samples)`` before the update that follows ``done`` updates."""
    from dyt_wav2vec.trainer import Trainer

    step = Trainer.train_step

    def stepped(self, samples, raise_oom=False):
        if self.get_num_updates() == done:
            act(self, samples)
        return step(self, samples, raise_oom)

    with mock.patch.object(Trainer, "train_step", stepped):
        yield


def context(directory, speech, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    default = Context(
        directory=directory, signature=SIGNATURE, needs={"speech": speech}, checkpoint_steps=3
    )
    return replace(default, **changes)


@dataclass(kw_only=True)
class Pretrained:
    """Outcome and files of a pretraining."""

    directory: Path
    outcome: object = None

    @property
    def lines(self):
        """The lines of metrics.jsonl, parsed as strict JSON."""

        def refuse(word):
            raise AssertionError(f"{word} is not JSON")

        text = (self.directory / "metrics.jsonl").read_text()
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]

    @property
    def steps(self):
        return [line for line in self.lines if "loss" in line]

    @property
    def evaluations(self):
        return {line["step"]: line["evaluation"] for line in self.lines if "evaluation" in line}

    @property
    def checkpoints(self):
        return sorted(path.name for path in (self.directory / "checkpoints").iterdir())

    @property
    def newest(self):
        """Path of the newest checkpoint."""
        return self.directory / "checkpoints" / self.checkpoints[-1]

    @property
    def state(self):
        """Newest checkpoint without fairseq's config, which contains the folder's path."""
        state = torch.load(self.newest, weights_only=True)
        del state["cfg"]
        return state

    def json(self, name):
        return json.loads((self.directory / name).read_text())


def pretrained(directory, speech, config=CONFIG, **where):
    """Pretrain in ``directory`` on the preparation in ``speech``."""
    outcome = pretrain(context(directory, speech, **where), config)
    return Pretrained(directory=directory, outcome=outcome)


def raw_bytes(value):
    """Return a nested state with tensors as bytes, for bitwise comparison."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), raw
    if isinstance(value, dict):
        return {key: raw_bytes(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [raw_bytes(inner) for inner in value]
    return value


def assert_same_run(one, other):
    """Assert that two runs have identical outcomes, logs, fingerprints and checkpoints."""
    assert one.outcome == other.outcome
    for name in ("metrics.jsonl", "fingerprint.json"):
        assert (one.directory / name).read_text() == (other.directory / name).read_text()
    assert raw_bytes(one.state) == raw_bytes(other.state)
