"""TrainConfig, the base class of training configs: refusal of wrong field values."""

import pytest

from matched import TrainConfig


def train_config(**changes):
    return TrainConfig(**{"epochs": 2, "batch": 4, "micro_batch": 2, "lr": 0.1, **changes})


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
        ({"schedule": "linear"}, "schedule is 'linear'; expected 'cosine', 'constant' or 'step'"),
        ({"precision": "int8"}, "precision is 'int8'; expected 'fp32', 'tf32', 'bf16' or 'fp16'"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; expected a positive number or None"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; expected a number between 0 and 1"),
    ],
    ids=str,
)
def test_train_config_refuses_wrong_values(changes, message):
    with pytest.raises(ValueError, match=message):
        train_config(**changes)
    assert train_config().epochs == 2
