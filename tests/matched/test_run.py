"""What makes two runs one run, and what tells them apart."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from matched import Run, TrainConfig, derive_run
from matched.matching import differences, field_of
from matched.run import SIGNATURE_LENGTH


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    alpha0: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    norm: Inner | str = "LN"
    lr: float = 0.1
    clip_norm: "float | None" = None
    betas: "tuple[float, float]" = (0.9, 0.999)
    sizes: "tuple[int | float, ...]" = (1, 2)
    options: object = ()


def run(**changes):
    return Run(task="package.module:train", config=Config(**changes))


# --- signatures


def test_signature_is_short_and_hexadecimal():
    assert len(run().signature) == SIGNATURE_LENGTH
    int(run().signature, 16)


def test_another_process_gives_the_same_signature(project):
    """Hashes of strings differ from process to process; signatures must not."""
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL, large=LARGE),))")
    here = [planned.run.signature for planned in project.plan().runs]
    code = (
        "import sys; from matched import planning, recipes, site; from pathlib import Path\n"
        "r = recipes.load('table1'); s = site.read(Path(sys.argv[1]))\n"
        "print(*[i.run.signature for i in planning.make_plan(r, r.scale('smoke'), s).runs])"
    )
    for seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", code, str(project.root / "site.toml")],
            env={**project.environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split() == here


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"norm": "DyT"},
        {"lr": 0.2},
        {"clip_norm": 1.0},
        {"betas": (0.9, 0.95)},
        {"options": {"a": 1}},
        {"options": (1, 2)},
        {"norm": Inner()},
        {"norm": Inner(alpha0=0.8)},
    ],
    ids=str,
)
def test_every_field_counts(changes):
    assert run(**changes).signature != run().signature
    assert run(**changes) != run()


def test_nested_fields_count():
    assert run(norm=Inner()).signature != run(norm=Inner(alpha0=0.8)).signature


def test_task_counts():
    assert Run(task="package.module:test", config=Config()).signature != run().signature


def test_a_changed_default_is_a_new_run():
    before, after = (
        dataclasses.make_dataclass("C", [("depth", int, default)], frozen=True, kw_only=True)
        for default in (12, 24)
    )
    one, other = Run(task="m:f", config=before()), Run(task="m:f", config=after())
    assert one.signature != other.signature
    assert Run(task="m:f", config=after(depth=12)).signature == one.signature


def test_a_field_of_a_needed_run_counts_and_so_does_its_name():
    def with_need(name, **changes):
        return Run(task="m:f", config=Config(), needs={name: run(**changes)})

    assert with_need("pretrained").signature == with_need("pretrained").signature
    assert with_need("pretrained").signature != with_need("pretrained", lr=0.2).signature
    assert with_need("pretrained").signature != with_need("teacher").signature
    assert with_need("pretrained").signature != run().signature


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"clip_norm": 1}, {"clip_norm": 1.0}),
        ({"betas": (0, 1)}, {"betas": (0.0, 1.0)}),
        ({"betas": [0.9, 1]}, {"betas": (0.9, 1.0)}),
        ({"norm": Inner(alpha0=1)}, {"norm": Inner(alpha0=1.0)}),
    ],
    ids=str,
)
def test_whole_numbers_in_float_fields_are_floats(whole, broken):
    assert run(**whole).signature == run(**broken).signature
    assert not differences(run(**whole), run(**broken))


def test_whole_numbers_stay_whole_where_both_are_allowed():
    assert run(sizes=(1, 2)).signature != run(sizes=(1.0, 2.0)).signature


def test_true_is_not_one():
    assert run(options=True).signature != run(options=1).signature


def test_equal_runs_are_one_key():
    assert len({run(): 1, run(lr=0.1): 2, run(lr=0.2): 3}) == 2


def test_where_a_run_runs_is_not_part_of_it(project):
    def signatures():
        return [planned.run.signature for planned in project.plan().runs]

    before = signatures()
    project.site('[runs]\nfolder = "elsewhere"\n[slurm]\npartition = "gpu"\n[local]\nworkers = 7\n')
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(minutes=9, gpus=8, small=SMALL, large=LARGE),))"
    )
    assert signatures() == before


def test_the_description_survives_json():
    described = run(norm=Inner(), betas=(0.9, 0.95), options={"a": [None, True]}).description
    assert json.loads(json.dumps(described)) == described


# --- what a run refuses


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Path("/data"), "config.options"),
        (float("nan"), "config.options"),
        (float("inf"), "config.options"),
        ({1: "a"}, "config.options"),
        ({"a": (0, object)}, "config.options.a[1]"),
        ({"a"}, "config.options"),
        (Config, "config.options"),
        (Inner(alpha0=float("nan")), "config.options.alpha0"),
    ],
    ids=str,
)
def test_values_without_a_plain_form_are_refused_by_name(value, where):
    with pytest.raises(ValueError) as refused:
        _ = run(options=value).signature
    assert str(refused.value).startswith(f"{where} is ")


@pytest.mark.parametrize("task", ["module", "module:", ":function", ""])
def test_a_task_is_a_module_and_a_function(task):
    with pytest.raises(ValueError, match=r"not of the form 'package\.module:function'"):
        Run(task=task, config=Config())


@pytest.mark.parametrize("config", [{"seed": 0}, Config])
def test_a_config_is_a_dataclass_instance(config):
    with pytest.raises(ValueError, match="config of m:f must be a dataclass instance"):
        Run(task="m:f", config=config)


# --- derive_run()


def test_matched_changes_the_norm_and_nothing_else():
    other = derive_run(run(lr=0.3), norm="DyT")
    assert other.config == Config(lr=0.3, norm="DyT")
    assert differences(run(lr=0.3), other) == {"config.norm": ("LN", "DyT")}


def test_matched_goes_through_needs():
    deep = run(lr=0.3)
    middle = Run(task="m:middle", config=Config(), needs={"pretrained": deep})
    top = Run(task="m:top", config=Config(), needs={"pretrained": middle})
    other = derive_run(top, norm="DyT", seed=5, lr=0.7)
    assert other.config == Config(norm="DyT", seed=5, lr=0.7)
    below = other.needs["pretrained"]
    assert below.config == Config(norm="DyT", seed=5), "lr is a change of the top run alone"
    assert below.needs["pretrained"].config == Config(norm="DyT", seed=5, lr=0.3)
    assert set(differences(top, derive_run(top, norm="DyT"))) == {
        "config.norm",
        "needs.pretrained.config.norm",
        "needs.pretrained.needs.pretrained.config.norm",
    }


def test_matched_refuses_a_field_that_the_config_lacks():
    with pytest.raises(ValueError, match=r"has no field lrr; it has .*lr, norm"):
        derive_run(run(), norm="DyT", lrr=0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """A config that knows neither norm nor seed: one run for all arms."""

    size: int = 8


def test_matched_leaves_alone_what_knows_neither_norm_nor_seed():
    cache = Run(task="m:cache", config=Cache())
    trained = Run(task="m:train", config=Config(), needs={"data": cache})
    top = Run(task="m:score", config=Cache(), needs={"trained": trained, "data": cache})
    other = derive_run(top, norm="DyT", seed=1)
    assert other.config == Cache()
    assert other.needs["data"] == cache == other.needs["trained"].needs["data"]
    assert other.needs["trained"].config == Config(norm="DyT", seed=1)
    assert set(differences(top, derive_run(top, norm="DyT"))) == {"needs.trained.config.norm"}


def test_matched_refuses_a_norm_that_no_run_has():
    cache = Run(task="m:cache", config=Cache())
    top = Run(task="m:score", config=Cache(), needs={"data": cache})
    with pytest.raises(ValueError, match="Cache of m:score has no field norm; it has size"):
        derive_run(top, norm="DyT")


# --- differences


def test_differences_name_the_innermost_field():
    found = differences(run(norm=Inner(), lr=0.1), run(norm=Inner(alpha0=0.8), lr=0.2))
    assert found == {"config.norm.alpha0": (0.5, 0.8), "config.lr": (0.1, 0.2)}


def test_a_need_that_only_one_run_has_is_a_difference():
    with_need = Run(task=run().task, config=Config(), needs={"pretrained": run()})
    (path,) = differences(run(), with_need)
    assert path == "needs.pretrained"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("config.lr", "lr"),
        ("config.norm.alpha0", "norm"),
        ("needs.pretrained.config.lr", "lr"),
        ("needs.pretrained.needs.teacher.config.norm.alpha0", "norm"),
        ("config.model_config.norm", "model_config"),
        ("config.config.lr", "config"),
        ("needs.config.config.lr", "lr"),
        ("task", "task"),
        ("needs.pretrained", "needs.pretrained"),
        ("needs.pretrained.task", "needs.pretrained.task"),
    ],
)
def test_field_of(path, field):
    assert field_of(path) == field


# --- TrainConfig


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
def test_train_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        train_config(**changes)
    assert train_config().epochs == 2
