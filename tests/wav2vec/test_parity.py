"""Parity of the LN arm with fairseq's own command, and use of our checkpoints in fairseq."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dyt_wav2vec import fairseq_config, fairseq_plugin, model
from dyt_wav2vec.hydra_train import USER_DIR
from matched import recipes

from . import stock
from .problem import CONFIG, DYT, OWN, pretrained

RECIPE = "pretraining/wav2vec2_base_librispeech"


class Case(NamedTuple):
    """Settings of the LN arm for a comparison of our training with fairseq's command.

    Attributes:
        plugin: True to run fairseq's command with our task, whose random numbers are reproducible;
            False to run our training with fairseq's task.
        num_workers: processes that load data.
        micro_batches: micro-batches of an update.
        pre_norm: pre-norm blocks.
    """

    plugin: bool
    num_workers: int
    micro_batches: int
    pre_norm: bool

    @property
    def name(self):
        task = "our_task" if self.plugin else "fairseqs_task"
        return (
            f"{task}_{self.num_workers}_{self.micro_batches}_{'pre' if self.pre_norm else 'post'}"
        )

    @property
    def config(self):
        return replace(
            CONFIG,
            norm=OWN,
            network=replace(CONFIG.network, layer_norm_first=self.pre_norm),
            micro_batches_per_update=self.micro_batches,
            updates=self.updates,
            # With fairseq's task, validation would advance the generators of later crops and masks.
            eval_updates=4 if self.plugin else 100,
            log_updates=1,
        )

    @property
    def updates(self):
        """Updates of two epochs of 5 micro-batches, plus one."""
        return 7 if self.micro_batches == 2 else 11

    def overrides(self, speech):
        """Command line that makes fairseq's recipe for Base this small."""
        return [
            *(f"task.data={speech / 'lists'}", "task.max_sample_size=12000"),
            *("task.min_sample_size=8000", "dataset.max_tokens=24000"),
            # Without worker processes, a buffer would crop in a thread, concurrently with the
            # drawing of masks, in random order.
            *(f"dataset.num_workers={self.num_workers}", "common.cpu=true"),
            f"dataset.data_buffer_size={10 * self.num_workers}",
            *("common.seed=3", "common.fp16=false", "checkpoint.no_save=true"),
            *("distributed_training.distributed_world_size=1", "optimization.lr=[0.002]"),
            f"optimization.update_freq=[{self.micro_batches}]",
            *(f"optimization.max_update={self.updates}", "lr_scheduler.warmup_updates=3"),
            "+model.conv_feature_layers='[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2'",
            *("+model.encoder_layers=2", "model.encoder_embed_dim=32"),
            *("+model.encoder_ffn_embed_dim=48", "+model.encoder_attention_heads=4"),
            *("model.final_dim=8", "+model.latent_vars=6", "+model.conv_pos=8"),
            *("+model.conv_pos_groups=4", "+model.num_negatives=5"),
            *("model.encoder_layerdrop=0.3", f"+model.layer_norm_first={self.pre_norm}"),
            *self._task_overrides(),
        ]

    def _task_overrides(self):
        if not self.plugin:
            return ["dataset.disable_validation=true"]
        return [f"common.user_dir={USER_DIR}", f"task._name={fairseq_plugin.TASK}"]


UNPLUGGED = Case(plugin=False, num_workers=0, micro_batches=2, pre_norm=False)
PLUGGED = Case(plugin=True, num_workers=0, micro_batches=1, pre_norm=True)
PAIRS = ((0, 1, False), (0, 2, True), (1, 1, True), (1, 2, False))
"""num_workers, micro_batches and pre_norm, such that all pairs of values occur."""
CASES = [Case(plugin, *values) for plugin, values in product((False, True), PAIRS)]


def commands(cases, speech):
    return {c.name: (stock.PROGRAM, RECIPE, c.overrides(speech)) for c in cases}


@pytest.fixture(scope="session")
def stocks(prepared, uninterrupted, tmp_path_factory):
    """Records of fairseq's command without and with our plugin, and with our checkpoint."""
    folder = tmp_path_factory.mktemp("stock")
    tuning = ("dyt_wav2vec.hydra_train", *finetuning(folder / "labeled", prepared, uninterrupted))
    return stock.run(folder, {**commands([UNPLUGGED, PLUGGED], prepared), "finetuning": tuning})


def finetuning(folder, speech, trained):
    """Arguments for fairseq's 10 h fine-tuning recipe, on utterances with the same label."""
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


def assert_same_training(case, record, speech, directory):
    task = fairseq_plugin.TASK if case.plugin else "audio_pretraining"
    with mock.patch.object(fairseq_plugin, "TASK", task):
        run = pretrained(directory, speech, case.config, num_workers=case.num_workers)
    assert run.steps[-1]["epoch"] > 2
    ours = [[step[key] for key in ("loss", "contrastive", "gradient_norm")] for step in run.steps]
    assert len(ours) == len(record.numbers) == case.updates
    # Equal up to rounding: our line is a mean over one update, multiplied and divided by its size.
    np.testing.assert_allclose(ours, record.numbers, rtol=1e-12, atol=0)
    return run


def test_training_matches_fairseqs_command(stocks, prepared, tmp_path):
    record = stocks[UNPLUGGED.name]
    assert record.classes == {("AudioPretrainingTask", "Wav2Vec2Model")}
    run = assert_same_training(UNPLUGGED, record, prepared, tmp_path)

    # fairseq's network loads our weights unchanged.
    from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model

    network = Wav2Vec2Model(Wav2Vec2Config(**model.model_overrides(UNPLUGGED.config.network)))
    network.load_state_dict(run.state["model"], strict=True)


def test_training_matches_fairseqs_command_with_our_plugin(stocks, prepared, tmp_path):
    record = stocks[PLUGGED.name]
    assert record.classes == {("Task", "Wav2Vec2Model")}
    assert_same_training(PLUGGED, record, prepared, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training_matches_fairseqs_command_for_all_loaders(case, all_stocks, prepared, tmp_path):
    assert_same_training(case, all_stocks[case.name], prepared, tmp_path)


def test_fairseqs_command_finetunes_our_checkpoint(stocks):
    record = stocks["finetuning"]
    assert record.classes == {("AudioFinetuningTask", "Wav2VecCtc")}
    assert len(record.updates) == 2
    assert all(0 < update["loss"] < float("inf") for update in record.updates)
    # fairseq prints the network that it trains.
    assert "(self_attn_layer_norm): DyT" in record.text


def test_fairseq_loads_our_checkpoint(uninterrupted):
    from fairseq import checkpoint_utils

    [loaded], _, task = checkpoint_utils.load_model_ensemble_and_task([str(uninterrupted.newest)])
    assert type(task) is fairseq_plugin.Task

    ours, norms = model.build(CONFIG.network, DYT, seed=0)
    ours.load_state_dict(uninterrupted.state["model"])
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
"""wav2vec2_large_librispeech.yaml of the authors' release for DyT, without ``HARNESS_SETTINGS``."""
OURS_ONLY = {
    "task._name": "dyt_audio_pretraining",
    "task.seed": 0,
    "task.reuse_dataloader": False,
    "model._name": "dyt_wav2vec2",
    "model.norm": "",
    "common.seed": 0,
}
"""The plugins, and our seed 0; fairseq's default seed is 1."""
HARNESS_SETTINGS = {
    *("checkpoint.save_interval_updates", "checkpoint.keep_interval_updates"),
    *("checkpoint.no_epoch_checkpoints", "common.log_format", "common.log_interval"),
    "dataset.num_workers",
}
"""Settings of logging, checkpoints and loading, which the harness controls."""
PYTHON_TEXTS = {"model.conv_feature_layers", "optimizer.adam_betas"}
"""Settings whose text fairseq evaluates as Python."""


def flat(settings, path=""):
    """Flatten nested settings into path → value."""
    values = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            values |= flat(value, f"{path}{key}.")
        else:
            values[path + key] = eval(value) if path + key in PYTHON_TEXTS else value
    return values


def full_settings(settings):
    """Merge the settings with fairseq's defaults and flatten them."""
    merged = fairseq_config.merged_config(settings, {"task": {"data": "folder"}})
    return flat(OmegaConf.to_container(merged))


@pytest.mark.parametrize("size", ["base", "large"])
def test_recipe_settings_equal_published_yaml(size):
    published = RELEASED_LARGE
    if size == "base":
        published = OmegaConf.to_container(OmegaConf.load(stock.recipes() / f"{RECIPE}.yaml"))
    published = full_settings(published)
    run = recipes.load("table5").scale("paper").runs[f"wav2vec2_{size}"]
    ours = full_settings(fairseq_config.training_overrides(run.config))
    assert len(published) > 300
    assert published.keys() <= ours.keys()
    changed = {k: v for k, v in ours.items() if k not in published or published[k] != v}
    assert {k: v for k, v in changed.items() if k not in HARNESS_SETTINGS} == OURS_ONLY


@pytest.mark.parametrize("size", ["base", "large"])
def test_official_recipe_settings_equal_published_yaml(size):
    base = OmegaConf.to_container(OmegaConf.load(stock.recipes() / f"{RECIPE}.yaml"))
    published = flat(RELEASED_LARGE if size == "large" else base)
    page = Path(__file__).parents[2] / "recipes" / "upstream" / "official_table05.py"
    table = recipes.load(str(page))
    command = table.scale("paper").runs[f"wav2vec2_{size}"].config.command
    options = [w.removeprefix("+") for w in command if "=" in w and "{" not in w]
    ours = flat(OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist(options))))
    defaults = full_settings(base)  # an option with the default's value may be left out
    assert not ours.keys() - published.keys() - HARNESS_SETTINGS - {"task.data"}
    assert {k: v for k, v in published.items() if ours.get(k, defaults.get(k)) != v} == {}
