"""Numbers that the configs of the paper's runs accept: every field is checked."""

from contextlib import suppress
from dataclasses import fields, is_dataclass, replace

import pytest

from dyt_llama.config import Tokenization

from .settings_pages import ROOT, every_run

OPTIONAL = {  # numbers that may be 0
    "min_lr", "warmup_epochs", "warmup_steps", "warmup_lr", "weight_decay", "flip", "momentum",
    "mixup", "cutmix", "mixup_prob", "mixup_switch", "erasing", "label_smoothing", "drop_path",
    "local_crops", "jitter", "greyscale", "solarize", "freeze_last_layer", "teacher_momentum",
    "center_momentum", "warmup_teacher_temperature_epochs", "final_weight_decay", "class_dropout",
    "checkpointed", "warmup_updates", "dropout", "attention_dropout",
    "activation_dropout", "dropout_input", "dropout_features", "encoder_layerdrop",
    "feature_grad_mult", "max_n",
}  # fmt: skip
"""Numbers that may be 0, and not negative."""
ANY = {"seed", "shuffle_seed", "filter_frequency", "decay_shift"}
"""Numbers that may be negative, such as the frequency of a sine."""


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))


def numbers(config):
    """Yield (config, field) of the numeric fields, those of nested configs included."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and field.name != "norm":
            yield from numbers(value)
        elif type(value) in (int, float) or (value is None and "int" in str(field.type)):
            yield config, field.name


def accepted(config, number):
    """Names of the numeric fields that can be set to a number."""
    names = set()
    for owner, name in numbers(config):
        with suppress(ValueError):
            replace(owner, **{name: number})
            names.add(name)
    return names


def test_numbers_of_configs_are_in_their_ranges():
    kinds = {type(config): config for config, _ in every_run().values()}
    assert len(kinds) > 15
    for config in kinds.values():
        present = {name for _, name in numbers(config)}
        assert accepted(config, -1) == ANY & present, type(config)
        # Of text a share is held out, of images a number.
        optional = OPTIONAL | ({"held_out"} if isinstance(config, Tokenization) else set())
        assert accepted(config, 0) == (optional | ANY) & present, type(config)
        assert accepted(config, float("nan")) <= ANY, type(config)
