"""Run signatures, refusal of values that JSON cannot store, and derive_run."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from matched import Run, derive_run
from matched.matching import run_differences
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


def test_signature_of_a_fixed_run_is_pinned():
    """If this fails, the results of all earlier runs are lost: no run would find its directory."""
    need = run(norm=Inner(alpha0=0.8), clip_norm=1, options={"β": [None, True, 2.5]})
    top = Run(task="package.module:test", config=Config(seed=7), needs={"pretrained": need})
    assert (need.signature, top.signature) == ("d3263d22a36f", "f33508fbb2c2")


def test_signature_does_not_depend_on_the_order_of_keys():
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert run(options=one).signature == run(options=other).signature
    assert not run_differences(run(options=one), run(options=other))
    needs = {"first": run(seed=1), "second": run(seed=2)}
    first = Run(task="m:f", config=Config(), needs=needs)
    second = Run(task="m:f", config=Config(), needs=dict(reversed(needs.items())))
    assert first.signature == second.signature


def test_signature_does_not_depend_on_the_order_of_fields():
    fields = [("depth", int, 12), ("lr", float, 0.1)]
    one, other = (
        dataclasses.make_dataclass("C", order, frozen=True, kw_only=True)
        for order in (fields, fields[::-1])
    )
    assert Run(task="m:f", config=one()).signature == Run(task="m:f", config=other()).signature


def test_signature_is_equal_in_another_process(project):
    """Python's own hashes of strings differ between processes; signatures must not."""
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
def test_signature_depends_on_every_config_field(changes):
    assert run(**changes).signature != run().signature
    assert run(**changes) != run()


def test_signature_depends_on_nested_fields():
    assert run(norm=Inner()).signature != run(norm=Inner(alpha0=0.8)).signature


def test_signature_depends_on_the_task():
    assert Run(task="package.module:test", config=Config()).signature != run().signature


def test_signature_changes_with_a_default():
    before, after = (
        dataclasses.make_dataclass("C", [("depth", int, default)], frozen=True, kw_only=True)
        for default in (12, 24)
    )
    one, other = Run(task="m:f", config=before()), Run(task="m:f", config=after())
    assert one.signature != other.signature
    assert Run(task="m:f", config=after(depth=12)).signature == one.signature


def test_signature_depends_on_needs_and_their_names():
    def with_need(name, **changes):
        return Run(task="m:f", config=Config(), needs={name: run(**changes)})

    assert with_need("pretrained").signature == with_need("pretrained").signature
    assert with_need("pretrained").signature != with_need("pretrained", lr=0.2).signature
    assert with_need("pretrained").signature != with_need("teacher").signature
    assert with_need("pretrained").signature != run().signature


@pytest.mark.parametrize(
    ("ints", "floats"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"clip_norm": 1}, {"clip_norm": 1.0}),
        ({"betas": (0, 1)}, {"betas": (0.0, 1.0)}),
        ({"betas": [0.9, 1]}, {"betas": (0.9, 1.0)}),
        ({"norm": Inner(alpha0=1)}, {"norm": Inner(alpha0=1.0)}),
    ],
    ids=str,
)
def test_signature_is_equal_for_int_and_float(ints, floats):
    assert run(**ints).signature == run(**floats).signature
    assert not run_differences(run(**ints), run(**floats))


def test_signature_keeps_ints_in_int_or_float_fields():
    assert run(sizes=(1, 2)).signature != run(sizes=(1.0, 2.0)).signature


def test_signature_differs_for_true_and_one():
    assert run(options=True).signature != run(options=1).signature


def test_runs_with_equal_signatures_are_one_dict_key():
    assert len({run(): 1, run(lr=0.1): 2, run(lr=0.2): 3}) == 2


def test_signature_ignores_site_and_resources(project):
    def signatures():
        return [planned.run.signature for planned in project.plan().runs]

    before = signatures()
    project.site('[runs]\nfolder = "elsewhere"\n[slurm]\npartition = "gpu"\n[local]\nworkers = 7\n')
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(minutes=9, gpus=8, small=SMALL, large=LARGE),))"
    )
    assert signatures() == before


def test_run_description_survives_json():
    described = run(norm=Inner(), betas=(0.9, 0.95), options={"a": [None, True]}).description
    assert json.loads(json.dumps(described)) == described


# --- refused values


@pytest.mark.parametrize(
    ("value", "path"),
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
def test_run_refuses_values_without_a_json_form(value, path):
    with pytest.raises(ValueError) as refused:
        _ = run(options=value).signature
    assert str(refused.value).startswith(f"{path} is ")
    assert str(refused.value).endswith(
        ", which cannot be stored as JSON; use numbers, strings, booleans, None, tuples, dicts and "
        "dataclasses of these"
    )


def test_run_refuses_a_need_that_is_no_run():
    with pytest.raises(ValueError, match="train needs 'tokens', of type int; expected a Run"):
        Run(task="package.module:train", config=Config(), needs={"tokens": 3})


@pytest.mark.parametrize("task", ["module", "module:", ":function", ""])
def test_run_refuses_a_malformed_task(task):
    with pytest.raises(ValueError, match=r"not of the form 'package\.module:function'"):
        Run(task=task, config=Config())


@pytest.mark.parametrize("config", [{"seed": 0}, Config])
def test_run_refuses_a_config_that_is_no_dataclass_instance(config):
    with pytest.raises(ValueError, match="config of m:f must be a dataclass instance"):
        Run(task="m:f", config=config)


# --- derive_run


def test_derive_run_changes_only_the_norm():
    other = derive_run(run(lr=0.3), norm="DyT")
    assert other.config == Config(lr=0.3, norm="DyT")
    assert run_differences(run(lr=0.3), other) == {"config.norm": ("LN", "DyT")}


def test_derive_run_changes_needs():
    deep = run(lr=0.3)
    middle = Run(task="m:middle", config=Config(), needs={"pretrained": deep})
    top = Run(task="m:top", config=Config(), needs={"pretrained": middle})
    other = derive_run(top, norm="DyT", seed=5, lr=0.7)
    assert other.config == Config(norm="DyT", seed=5, lr=0.7)
    below = other.needs["pretrained"]
    assert below.config == Config(norm="DyT", seed=5), "lr changes in the top run only"
    assert below.needs["pretrained"].config == Config(norm="DyT", seed=5, lr=0.3)
    assert set(run_differences(top, derive_run(top, norm="DyT"))) == {
        "config.norm",
        "needs.pretrained.config.norm",
        "needs.pretrained.needs.pretrained.config.norm",
    }


def test_derive_run_refuses_an_unknown_field():
    with pytest.raises(ValueError) as error:
        derive_run(run(), norm="DyT", lrr=0.1, depth=3)
    assert str(error.value) == (
        "config Config of package.module:train has no field depth, lrr; it has betas, clip_norm, "
        "lr, norm, options, seed, sizes"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """A config without norm and seed: one run for all arms."""

    size: int = 8


def test_derive_run_keeps_needs_without_norm_and_seed():
    cache = Run(task="m:cache", config=Cache())
    trained = Run(task="m:train", config=Config(), needs={"data": cache})
    top = Run(task="m:score", config=Cache(), needs={"trained": trained, "data": cache})
    other = derive_run(top, norm="DyT", seed=1)
    assert other.config == Cache()
    assert other.needs["data"] == cache == other.needs["trained"].needs["data"]
    assert other.needs["trained"].config == Config(norm="DyT", seed=1)
    assert set(run_differences(top, derive_run(top, norm="DyT"))) == {"needs.trained.config.norm"}


def test_derive_run_refuses_a_norm_that_no_run_has():
    cache = Run(task="m:cache", config=Cache())
    top = Run(task="m:score", config=Cache(), needs={"data": cache})
    with pytest.raises(ValueError, match="Cache of m:score has no field norm; it has size"):
        derive_run(top, norm="DyT")
