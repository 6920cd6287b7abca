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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_lr": -0.1}, "lr 0.1 and min_lr -0.1: expected 0 <= min_lr <= lr"),
        ({"warmup_epochs": -0.1}, "warmup_epochs is -0.1; expected 0 to epochs (2)"),
        ({"warmup_lr": -0.1}, "warmup_lr is -0.1; expected 0 to lr (0.1)"),
        ({"decay_epochs": 0}, "decay_epochs is 0; expected a whole number of 1 or more"),
        ({"decay_factor": 0.0}, "decay_factor is 0.0; expected above 0, at most 1"),
        ({"decay_factor": 1.1}, "decay_factor is 1.1; expected above 0, at most 1"),
        ({"micro_batch": 0}, "micro_batch is 0; expected a whole number of 1 or more"),
        ({"log_steps": 0}, "log_steps is 0; expected a whole number of 1 or more"),
        ({"ema_decay": 0.0}, "ema_decay is 0.0; expected a number between 0 and 1"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; expected a positive number or None"),
        (
            {"weight_decay": -0.1},
            "weight_decay -0.1 and betas (0.9, 0.999): expected 0 or more, and two numbers from 0 "
            "to below 1",
        ),
        (
            {"betas": (0.9, 1.0)},
            "weight_decay 0.05 and betas (0.9, 1.0): expected 0 or more, and two numbers from 0 to "
            "below 1",
        ),
        (
            {"betas": (-0.1, 0.9)},
            "weight_decay 0.05 and betas (-0.1, 0.9): expected 0 or more, and two numbers from 0 "
            "to below 1",
        ),
        (
            {"schedule": "constant", "schedule_steps": 9},
            "schedule_steps is 9, but the schedule 'constant' has no length; expected None",
        ),
        (
            {"schedule": "fms-fsdp", "warmup_epochs": 0.5},
            'the schedule "fms-fsdp" has its own warm-up; set warmup_epochs and warmup_steps to 0',
        ),
    ],
    ids=str,
)
def test_train_config_refuses_values_outside_of_their_range(changes, message):
    with pytest.raises(ValueError) as refusal:
        train_config(**changes)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"min_lr": 0.1},
        {"min_lr": 0.0},
        {"warmup_epochs": 2},
        {"warmup_lr": 0.1},
        IN_STEPS | {"warmup_steps": 100},
        {"decay_factor": 1.0},
        {"weight_decay": 0.0, "betas": (0.0, 0.0)},
        {"schedule": "fms-fsdp", "schedule_steps": 1},
        {"schedule": "cosine", "schedule_steps": 1},
        {"eval_steps": 1},
        {"clip_norm": 1e-9},
        {"ema_decay": 1e-9},
        *({"precision": name} for name in ("fp32", "tf32", "bf16", "bf16-params", "bf16-reduce")),
        *({"schedule": name} for name in ("cosine", "constant", "step", "fms-fsdp")),
    ],
    ids=str,
)
def test_train_config_accepts_the_ends_of_its_ranges(changes):
    assert vars(train_config(**changes)).items() >= changes.items()


@pytest.mark.parametrize(
    ("batch", "micro_batch", "world_size", "accumulation"),
    [(64, 64, 1, 1), (64, 100, 1, 1), (64, 16, 1, 4), (64, 16, 4, 1), (64, 15, 2, None),
     (60, 11, 2, 3), (60, 60, 7, None), (6, 4, 2, 1), (7, 4, 1, None)],
)  # fmt: skip
def test_accumulation_takes_as_few_micro_batches_as_possible(
    batch, micro_batch, world_size, accumulation
):
    config = train_config(batch=batch, micro_batch=micro_batch)
    if accumulation is not None:
        assert config.accumulation(world_size) == accumulation
    else:
        with pytest.raises(ValueError, match=f"^a batch of {batch} does not divide evenly over "):
            config.accumulation(world_size)


def test_accumulation_names_all_numbers():
    with pytest.raises(ValueError) as refusal:
        train_config(batch=70, micro_batch=12).accumulation(2)
    assert str(refusal.value) == (
        "a batch of 70 does not divide evenly over 2 processes and 3 accumulation steps; choose "
        "batch and micro_batch (12) so that it does"
    )
