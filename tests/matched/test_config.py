"""TrainConfig, the base class of training configs: refusal of wrong field values."""

import pytest

from matched import TrainConfig


def train_config(**changes):
    return TrainConfig(**{"epochs": 2, "batch": 4, "micro_batch": 2, "lr": 0.1, **changes})


IN_STEPS = {"epochs": None, "steps": 100}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number of 1 or more"),
        ({"batch": 2.5}, "batch is 2.5; expected a whole number"),
        ({"eval_epochs": True}, "eval_epochs is True"),
        ({"lr": 0.0}, "expected 0 <= min_lr <= lr"),
        ({"lr": float("nan")}, "expected 0 <= min_lr <= lr"),
        ({"min_lr": 0.2}, "lr 0.1 and min_lr 0.2"),
        ({"warmup_epochs": 3}, r"warmup_epochs is 3; expected 0 to epochs \(2\)"),
        (
            {"schedule": "linear"},
            "schedule is 'linear'; expected 'cosine', 'constant', 'step' or 'fms-fsdp'",
        ),
        (
            {"precision": "int8"},
            "precision is 'int8'; expected 'fp32', 'tf32', 'bf16', 'fp16', 'bf16-p",
        ),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; expected a positive number or None"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; expected a number between 0 and 1"),
    ],
    ids=str,
)
def test_train_config_refuses_wrong_values(changes, message):
    with pytest.raises(ValueError, match=message):
        train_config(**changes)
    assert train_config().epochs == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": None}, "epochs is None and steps None; expected exactly one of them"),
        ({"steps": 5}, "epochs is 2 and steps 5; expected exactly one of them"),
        (IN_STEPS | {"steps": 0}, "steps is 0; expected a whole number of 1 or more"),
        (IN_STEPS | {"steps": 1e4}, "steps is 10000.0; expected a whole number"),
        (IN_STEPS | {"warmup_steps": 101}, r"warmup_steps is 101; expected 0 to steps \(100\)"),
        ({"warmup_steps": -1}, "warmup_steps is -1; expected a whole number of 0 or more"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5; expected a whole number of 0 or more"),
        (
            {"warmup_steps": 1, "warmup_epochs": 0.5},
            "warmup_epochs is 0.5 and warmup_steps 1; expected at most one of them",
        ),
        (IN_STEPS | {"warmup_epochs": -1}, "warmup_epochs is -1; expected 0 to epochs"),
        ({"warmup_lr": 0.2}, r"warmup_lr is 0.2; expected 0 to lr \(0.1\)"),
        ({"eval_steps": 0}, "eval_steps is 0; expected a whole number of 1 or more"),
        (
            {"eval_steps": 3, "eval_epochs": 2},
            "eval_epochs is 2 and eval_steps 3; expected at most one of them",
        ),
        ({"schedule_steps": 0}, "schedule_steps is 0; expected a whole number of 1 or more"),
        (
            {"schedule_steps": 9, "schedule": "step"},
            "schedule_steps is 9, but the schedule 'step' has no length; expected None",
        ),
        (
            {"schedule": "fms-fsdp", "warmup_steps": 2},
            '"fms-fsdp" has its own warm-up; set warmup_epochs and warmup_steps to 0',
        ),
    ],
    ids=str,
)
def test_train_config_refuses_wrong_lengths(changes, message):
    with pytest.raises(ValueError, match=message):
        train_config(**changes)


def test_train_config_may_give_its_length_in_steps():
    config = train_config(**IN_STEPS, warmup_steps=10, eval_steps=20)
    assert (config.epochs, config.steps) == (None, 100)
    assert train_config(**IN_STEPS, warmup_epochs=3).warmup_epochs == 3
