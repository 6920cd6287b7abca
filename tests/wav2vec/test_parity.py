"""The LN arm trains as fairseq's own command does, and what it leaves is fairseq's to use."""

from dataclasses import replace
from itertools import product
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dyt_wav2vec import fairseq_config, model, registration
from dyt_wav2vec.hydra_train import PLUGIN
from matched import recipes

from . import stock
from .problem import CONFIG, DYT, OWN, pretrained

RECIPE = "pretraining/wav2vec2_base_librispeech"


class Case(NamedTuple):
    """How the LN arm is trained, by us and by fairseq's command.

    Attributes:
        plugin: fairseq's command is given our task, which makes its random numbers repeatable;
            else we are given fairseq's.
        num_workers: processes that load data.
        shards: micro-batches of an update.
        first: pre-norm blocks.
    """

    plugin: bool
    num_workers: int
    shards: int
    first: bool

    @property
    def name(self):
        task = "our_task" if self.plugin else "fairseqs_task"
        return f"{task}_{self.num_workers}_{self.shards}_{'pre' if self.first else 'post'}"

    @property
    def config(self):
        return replace(
            CONFIG,
            norm=OWN,
            network=replace(CONFIG.network, layer_norm_first=self.first),
            shards=self.shards,
            updates=self.updates,
            # With fairseq's task, validation draws from what later crops and masks come from.
            eval_updates=4 if self.plugin else 100,
            log_updates=1,
        )

    @property
    def updates(self):
        """Two passes over 5 micro-batches, and an update more."""
        return 7 if self.shards == 2 else 11

    def overrides(self, speech):
        """fairseq's recipe for Base made this small, in the words of its command line."""
        return [
            *(f"task.data={speech / 'lists'}", "task.max_sample_size=12000"),
            *("task.min_sample_size=8000", "dataset.max_tokens=24000"),
            # A buffer without processes behind it crops while masks are drawn, by chance.
            *(f"dataset.num_workers={self.num_workers}", "common.cpu=true"),
            f"dataset.data_buffer_size={10 * self.num_workers}",
            *("common.seed=3", "common.fp16=false", "checkpoint.no_save=true"),
            *("distributed_training.distributed_world_size=1", "optimization.lr=[0.002]"),
            f"optimization.update_freq=[{self.shards}]",
            *(f"optimization.max_update={self.updates}", "lr_scheduler.warmup_updates=3"),
            "+model.conv_feature_layers='[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2'",
            *("+model.encoder_layers=2", "model.encoder_embed_dim=32"),
            *("+model.encoder_ffn_embed_dim=48", "+model.encoder_attention_heads=4"),
            *("model.final_dim=8", "+model.latent_vars=6", "+model.conv_pos=8"),
            *("+model.conv_pos_groups=4", "+model.num_negatives=5"),
            *("model.encoder_layerdrop=0.3", f"+model.layer_norm_first={self.first}"),
            *self._plugged(),
        ]

    def _plugged(self):
        if not self.plugin:
            return ["dataset.disable_validation=true"]
        return [f"common.user_dir={PLUGIN}", f"task._name={registration.TASK}"]


UNPLUGGED = Case(plugin=False, num_workers=0, shards=2, first=False)
PLUGGED = Case(plugin=True, num_workers=0, shards=1, first=True)
PAIRS = ((0, 1, False), (0, 2, True), (1, 1, True), (1, 2, False))
"""Of loaders, shards and pre-norm: every value of one with every value of another."""
CASES = [Case(plugin, *values) for plugin, values in product((False, True), PAIRS)]


def commands(cases, speech):
    return {c.name: (stock.PROGRAM, RECIPE, c.overrides(speech)) for c in cases}


@pytest.fixture(scope="session")
def stocks(prepared, undisturbed, tmp_path_factory):
    """What fairseq's command does, without and with our plugin, and with a checkpoint of ours."""
    folder = tmp_path_factory.mktemp("stock")
    tuning = ("dyt_wav2vec.hydra_train", *finetuning(folder / "labelled", prepared, undisturbed))
    return stock.run(folder, {**commands([UNPLUGGED, PLUGGED], prepared), "finetuning": tuning})


def finetuning(folder, speech, trained):
    """fairseq's recipe for 10 labelled hours, on utterances that all say the same."""
    folder.mkdir()
    lines = (speech / "lists" / "train.tsv").read_text().splitlines()
    (folder / "train.tsv").write_text("\n".join(lines))
    (folder / "train.ltr").write_text("A B |\n" * (len(lines) - 1))
    (folder / "dict.ltr.txt").write_text("| 3\nA 2\nB 1\n")
    return "finetuning/base_10h", [
        *(f"model.w2v_path={trained.newest}", f"task.data={folder}", "dataset.num_workers=0"),
        *("dataset.valid_subset=train", "dataset.disable_validation=true"),
        *("dataset.max_tokens=100000", "optimization.max_update=2", "optimization.update_freq=[1]"),
        *("common.cpu=true", "common.fp16=false", "checkpoint.no_save=true"),
        *("distributed_training.distributed_world_size=1", "model.mask_channel_prob=0"),
        "model.freeze_finetune_updates=0",
    ]


@pytest.fixture(scope="session")
def all_stocks(prepared, tmp_path_factory):
    return stock.run(tmp_path_factory.mktemp("all_stocks"), commands(CASES, prepared))


def assert_same_training(case, theirs, speech, directory):
    task = registration.TASK if case.plugin else "audio_pretraining"
    with mock.patch.object(registration, "TASK", task):
        run = pretrained(directory, speech, case.config, num_workers=case.num_workers)
    assert run.steps[-1]["epoch"] > 2
    told = [[step[key] for key in ("loss", "contrastive", "gradient_norm")] for step in run.steps]
    assert len(told) == len(theirs.numbers) == case.updates
    # Equal, but that our line is a mean over one update: multiplied and divided by its size.
    np.testing.assert_allclose(told, theirs.numbers, rtol=1e-12, atol=0)
    return run


def test_training_is_that_of_fairseqs_command(stocks, prepared, tmp_path):
    theirs = stocks[UNPLUGGED.name]
    assert theirs.classes == {("AudioPretrainingTask", "Wav2Vec2Model")}
    run = assert_same_training(UNPLUGGED, theirs, prepared, tmp_path)

    # And fairseq's network takes the weights of ours as they are.
    from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model

    network = Wav2Vec2Model(Wav2Vec2Config(**model.settings(UNPLUGGED.config.network)))
    network.load_state_dict(run.state["model"], strict=True)


def test_with_our_plugin_fairseqs_command_is_as_repeatable(stocks, prepared, tmp_path):
    theirs = stocks[PLUGGED.name]
    assert theirs.classes == {("Task", "Wav2Vec2Model")}
    assert_same_training(PLUGGED, theirs, prepared, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training_is_that_of_fairseqs_command_however_it_is_loaded(
    case, all_stocks, prepared, tmp_path
):
    assert_same_training(case, all_stocks[case.name], prepared, tmp_path)


def test_fairseqs_command_finetunes_our_checkpoints(stocks):
    tuned = stocks["finetuning"]
    assert tuned.classes == {("AudioFinetuningTask", "Wav2VecCtc")}
    assert len(tuned.updates) == 2
    assert all(0 < update["loss"] < float("inf") for update in tuned.updates)
    # What it prints of the network that it trains.
    assert "(self_attn_layer_norm): DynamicTanh" in tuned.text


def test_fairseq_loads_our_checkpoints(undisturbed):
    from fairseq import checkpoint_utils

    [loaded], _, task = checkpoint_utils.load_model_ensemble_and_task([str(undisturbed.newest)])
    assert type(task) is registration.Task

    ours, norms = model.build(CONFIG.network, DYT, seed=0)
    ours.load_state_dict(undisturbed.state["model"])
    assert loaded.norms == norms
    sound = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    ours.eval(), loaded.eval()
    expected, got = (
        net(sound, mask=False, features_only=True)["x"].detach() for net in (ours, loaded)
    )
    assert expected.std() > 0.01
    assert torch.equal(got, expected)


RELEASED_LARGE = {
    "common": {"fp16": True},
    "task": {
        "_name": "audio_pretraining",
        "max_sample_size": 320_000,
        "min_sample_size": 32_000,
        "normalize": False,
    },
    "dataset": {"max_tokens": 1_200_000, "skip_invalid_size_inputs_valid_test": True},
    "distributed_training": {"distributed_world_size": 128, "ddp_backend": "legacy_ddp"},
    "criterion": {
        "_name": "wav2vec",
        "infonce": True,
        "log_keys": ["prob_perplexity", "code_perplexity", "temp"],
        "loss_weights": [0.1, 10],
    },
    "optimization": {"max_update": 250_000, "lr": [0.0003]},
    "optimizer": {
        "_name": "adam",
        "adam_betas": "(0.9,0.98)",
        "adam_eps": 1e-06,
        "weight_decay": 0.01,
    },
    "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 20_000},
    "model": {
        "_name": "wav2vec2",
        "quantize_targets": True,
        "final_dim": 768,
        "latent_temp": [2.0, 0.1, 0.999995],
        "encoder_layerdrop": 0.2,
        "dropout_input": 0.1,
        "dropout_features": 0.1,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
        "feature_grad_mult": 0.1,
        "layer_norm_first": True,
    },
}
"""wav2vec2_large_librispeech.yaml of the authors' release for DyT, but what is among ``HABITS``."""
OURS_ALONE = {
    "task._name": "dyt_audio_pretraining",
    "task.seed": 0,
    "task.reuse_dataloader": False,
    "model._name": "dyt_wav2vec2",
    "model.norm": "",
    "common.seed": 0,
}
"""The plugin, and the first seed, which is 1 with fairseq."""
HABITS = {
    *("checkpoint.save_interval_updates", "checkpoint.keep_interval_updates"),
    *("checkpoint.no_epoch_checkpoints", "common.log_format", "common.log_interval"),
    "dataset.num_workers",
}
"""What is told, saved and loaded how, which is the harness's."""
EVALUATED = {"model.conv_feature_layers", "optimizer.adam_betas"}
"""Texts that fairseq evaluates as Python."""


def flat(settings, path=""):
    """All of fairseq's configuration, path → value, where these are set."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{path}{key}.")
        else:
            found[path + key] = eval(value) if path + key in EVALUATED else value
    return found


def asked_of_fairseq(settings):
    whole = fairseq_config.whole(settings, {"task": {"data": "folder"}})
    return flat(OmegaConf.to_container(whole))


@pytest.mark.parametrize("size", ["base", "large"])
def test_settings_are_those_of_the_paper_key_by_key(size):
    theirs = RELEASED_LARGE
    if size == "base":
        theirs = OmegaConf.to_container(OmegaConf.load(stock.recipes() / f"{RECIPE}.yaml"))
    theirs = asked_of_fairseq(theirs)
    run = recipes.load("table5").scale("paper").runs[f"wav2vec2_{size}"]
    ours = asked_of_fairseq(fairseq_config.settings(run.config))
    assert len(theirs) > 300
    assert theirs.keys() <= ours.keys()
    changed = {k: v for k, v in ours.items() if k not in theirs or theirs[k] != v}
    assert {k: v for k, v in changed.items() if k not in HABITS} == OURS_ALONE
