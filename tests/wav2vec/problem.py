"""A pretraining of a second that still draws from every kind of randomness; what it leaves."""

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

# 5 micro-batches of 2 utterances each (the last has 1) are 3 updates an epoch, the third of which
# has 1 micro-batch: epochs end after updates 3 and 6. Validation is 3 micro-batches.
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
    shards=2,
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


# A block that all micro-batches of an update leave out has no gradient in one process, and one of
# zeros in two, by which Adam goes on as it went before.
DIVIDED = replace(CONFIG, network=replace(CONFIG.network, encoder_layerdrop=0.0))
SIZE = 43_000  # 7 of the 9 utterances are as long
# 7 micro-batches of 1 utterance: in the second update of an epoch, the second of two processes has
# 1 micro-batch where there should be 2.
FILLED = replace(
    DIVIDED, shards=4, updates=4, max_tokens=SIZE, max_sample_size=SIZE, min_sample_size=SIZE
)


class Cut(BaseException):
    """Stands for whatever ends a process in the middle of a run."""


def cut(*_):
    raise Cut


def ask(*_):
    """Ask this process to stop, as Slurm does."""
    os.kill(os.getpid(), signals.PREEMPTION_SIGNAL)
    while signals.stop_signal() is None:
        time.sleep(0.001)


def poisoned(trainer, *_):
    """A weight that makes the gradients NaN."""
    with torch.no_grad():
        trainer.get_model().final_proj.weight[0, 0] = float("nan")


@contextmanager
def before_update(done, act):
    """Before the update after ``done`` others, do ``act`` with the trainer and its samples."""
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
    usual = Context(
        directory=directory, signature=SIGNATURE, needs={"speech": speech}, checkpoint_steps=3
    )
    return replace(usual, **changes)


@dataclass(kw_only=True)
class Pretrained:
    """What a run left behind."""

    directory: Path
    outcome: object = None

    @property
    def lines(self):
        """The lines of metrics.jsonl, read as strictly as JSON is defined."""

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
        """The newest checkpoint."""
        return self.directory / "checkpoints" / self.checkpoints[-1]

    @property
    def state(self):
        """What is in it, without the settings, which name the folder."""
        state = torch.load(self.newest, weights_only=True)
        del state["cfg"]
        return state

    def json(self, name):
        return json.loads((self.directory / name).read_text())


def pretrained(directory, speech, config=CONFIG, **where):
    """Pretrain in ``directory`` on what a preparation has left in ``speech``."""
    outcome = pretrain(context(directory, speech, **where), config)
    return Pretrained(directory=directory, outcome=outcome)


def bits(value):
    """A nested state with the bytes of its tensors, so that two are equal to the last bit."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), raw
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(inner) for inner in value]
    return value


def assert_same_run(one, other):
    """Two runs that nothing in their directories tells apart."""
    assert one.outcome == other.outcome
    for name in ("metrics.jsonl", "fingerprint.json"):
        assert (one.directory / name).read_text() == (other.directory / name).read_text()
    assert bits(one.state) == bits(other.state)
