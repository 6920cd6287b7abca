"""Matching: config differences between runs, and the refusal of recipes whose arms are not matched.

Verdicts from fingerprints are in test_audit.py.
"""

import dataclasses

import pytest

from matched import Arm, Resources, Run, Scale, Table, recipes
from matched.matching import (
    check_matched,
    config_field,
    pair_with_baseline,
    run_differences,
)
from matched.table import Cell

# --- run_differences and config_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    alpha0: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    norm: Norm | str = "LN"
    lr: float = 0.1


def run(**changes):
    return Run(task="package.module:train", config=Config(**changes))


def test_run_differences_name_the_innermost_field():
    differences = run_differences(run(norm=Norm(), lr=0.1), run(norm=Norm(alpha0=0.8), lr=0.2))
    assert differences == {"config.norm.alpha0": (0.5, 0.8), "config.lr": (0.1, 0.2)}


def test_run_differences_include_a_need_of_only_one_run():
    with_need = Run(task=run().task, config=Config(), needs={"pretrained": run()})
    (path,) = run_differences(run(), with_need)
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
def test_config_field_of_a_path(path, field):
    assert config_field(path) == field


# --- pair_with_baseline


def test_pair_with_baseline_keeps_row_and_seed(project):
    recipe = recipes.load("table1")
    cells = list(recipe.table.cells(recipe.scale("smoke")))
    pairs = pair_with_baseline(cells, "LN")
    assert len(pairs) == 4
    for base, other in pairs:
        assert (base.row, base.seed) == (other.row, other.seed)
        assert (base.arm, other.arm) == ("LN", "DyT")


def cells(*names):
    """Cells of row r by "arm value seed"; a run of its own for each."""
    found = []
    for number, name in enumerate(names):
        arm, value, seed = name.split(" ")
        value = value.strip("-")
        found.append(Cell(row="r", arm=arm, seed=int(seed), run=run(lr=number), value=value))
    return found


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["DyT - 0", "LN - 0", "LN - 1", "DyT - 1", "BN - 2"], [("LN", "DyT")] * 2),
        # A search next to a baseline of one run, and then without one.
        (["LN - 0", "DyT 1 0", "DyT 2 0"], [("LN", "DyT · 1"), ("LN", "DyT · 2")]),
        (
            ["LN 1 0", "LN 2 0", "DyT 1 0", "DyT 2 0", "DyT 1 1", "DyT 2 1", "BN - 0"],
            [("LN · 1", "LN · 2"), ("DyT · 1", "DyT · 2"), ("DyT · 1", "DyT · 2")],
        ),
    ],
)
def test_pair_with_baseline_or_with_the_first_trial(names, pairs):
    found = pair_with_baseline(cells(*names), "LN")
    assert [(base.column, other.column) for base, other in found] == pairs
    assert all(base.seed == other.seed for base, other in found)


def test_run_differences_of_fields_that_one_config_lacks():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More(Config):
        clip: float | None = None
        depth: int = 12

    other = Run(task=run().task, config=More())
    assert run_differences(run(), other) == {
        "config.__type__": ("Config", "More"),
        "config.depth": (None, 12),
    }
    assert run_differences(other, run()) == {
        "config.__type__": ("More", "Config"),
        "config.depth": (12, None),
    }


# --- check_matched: refusal of recipes before anything runs

LR_AND_EPOCHS = "Run(task=SMALL.task, config=replace(SMALL.config, lr=0.2, epochs=3))"


def per_arm(dyt: str, more: str = "") -> str:
    return f"TABLE = Table(arms=ARMS, scales=(scale(small={{'LN': SMALL, 'DyT': {dyt}}}),){more})"


def test_check_matched_refuses_differences_other_than_the_norm(project):
    project.recipe(per_arm(LR_AND_EPOCHS))
    assert project.mistake("plan", "table1") == (
        "table1 at smoke scale, row small: the arms LN and DyT are not matched, they differ in "
        "config.lr: 0.1 / 0.2; config.epochs: 1 / 3. Make these equal, or add the field and the "
        "reason to allowed_differences of the table or of the arm DyT"
    )


@pytest.mark.parametrize("command", ["submit", "status", "table", "audit"])
def test_every_command_refuses_an_unmatched_recipe(project, command):
    project.recipe(per_arm(LR_AND_EPOCHS))
    assert "are not matched" in project.mistake(command, "table1")
    assert not (project.root / "runs").exists()


def test_check_matched_accepts_allowed_differences(project):
    allowed = ", allowed_differences={'lr': 'tuned', 'epochs': 'why not'}"
    project.recipe(per_arm(LR_AND_EPOCHS, allowed))
    assert "4 of 4 runs to do" in project.cli("plan", "table1")


def test_an_allowed_difference_allows_no_other_field(project):
    project.recipe(per_arm(LR_AND_EPOCHS, ", allowed_differences={'lr': 'tuned'}"))
    line = project.mistake("plan", "table1")
    assert "config.epochs: 1 / 3" in line and "config.lr" not in line


def test_check_matched_refuses_another_task(project):
    project.recipe(per_arm("Run(task='tiny:other', config=SMALL.config)"))
    assert "task: 'tiny:train' / 'tiny:other'" in project.mistake("plan", "table1")


def test_check_matched_refuses_another_need(project):
    project.recipe(per_arm("Run(task=SMALL.task, config=SMALL.config, needs={'start': LARGE})"))
    assert "needs.start" in project.mistake("plan", "table1")


def test_check_matched_refuses_a_difference_within_a_need(project):
    project.recipe(
        "def top(lr):\n"
        "    need = Run(task='tiny:train', config=replace(SMALL.config, lr=lr))\n"
        "    return Run(task='tiny:train', config=LARGE.config, needs={'start': need})\n\n\n"
        "TABLE = Table(arms=ARMS, scales=(scale(large={'LN': top(0.1), 'DyT': top(0.2)}),))"
    )
    assert "needs.start.config.lr: 0.1 / 0.2" in project.mistake("plan", "table1")


def test_check_matched_covers_scales_that_are_not_requested(project):
    project.recipe(
        f"TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),"
        f" scale(name='paper', small={{'LN': SMALL, 'DyT': {LR_AND_EPOCHS}}})))"
    )
    assert "table1 at paper scale" in project.mistake("plan", "table1", "--scale", "smoke")


def test_check_matched_covers_arms_without_a_norm(project):
    """Arm.norm is None: every run has the norm in its own config."""
    project.recipe(
        "def own(norm, lr=0.1):\n"
        "    return Run(task='tiny:train', config=Config(norm=norm, lr=lr))\n\n\n"
        "ARMS = (Arm(name='tanh'), Arm(name='sigmoid'))\n"
        "RUNS = {'tanh': own('tanh'), 'sigmoid': own('sigmoid', lr=0.2)}\n"
        "TABLE = Table(arms=ARMS, scales=(scale(small=RUNS),))"
    )
    line = project.mistake("plan", "table1")
    assert "the arms tanh and sigmoid are not matched, they differ in config.lr: 0.1 / 0.2" in line


# --- allowed differences of one arm

THREE_ARMS = """
THREE = (*ARMS, Arm(name="Fixup", norm="own", allowed_differences={'lr': 'it needs its own'}))
OTHER = replace(SMALL, config=replace(SMALL.config, lr=0.2))
"""


def test_an_allowed_difference_of_no_config_is_refused():
    """Fields of needs count, and all that can be in a run's path or fingerprint."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Start:
        seed: int = 0

    start = Run(task=run().task, config=Start())
    top = Run(task=run().task, config=Config(), needs={"start": start})
    known = {"seed", "lr", "norm", "task", "weights", "batches", "needs.start"}

    def check(of_table=(), of_arm=()):
        scale = Scale(name="smoke", runs={"r": top}, seeds=(0,), resources=Resources(minutes=1))
        dyt = Arm(name="DyT", norm="DyT", allowed_differences=dict.fromkeys(of_arm, "why"))
        table = Table(
            arms=(Arm(name="LN", norm="LN"), dyt),
            scales=(scale,),
            allowed_differences=dict.fromkeys(of_table, "why"),
        )
        check_matched(table, scale)

    check(known, known)
    for owner, names in (
        ("table", {"of_table": ("lr", "epoch", "depth")}),
        ("arm DyT", {"of_arm": ("epoch", "depth")}),
    ):
        with pytest.raises(ValueError) as error:
            check(**names)
        assert str(error.value) == (
            f"allowed_differences of the {owner} names epoch, depth, which no config has; "
            "expected some of batches, lr, norm, seed, task, weights"
        )


def three_arms(dyt, fixup):
    runs = f"{{'LN': SMALL, 'DyT': {dyt}, 'Fixup': {fixup}}}"
    return f"{THREE_ARMS}TABLE = Table(arms=THREE, scales=(scale(seeds=(0,), small={runs}),))"


def test_an_allowed_difference_of_an_arm_is_accepted_there(project):
    project.recipe(three_arms("SMALL", "OTHER"))
    assert "3 of 3 runs to do" in project.cli("plan", "table1")


def test_an_allowed_difference_of_an_arm_excludes_other_arms(project):
    project.recipe(three_arms("OTHER", "OTHER"))
    line = project.mistake("plan", "table1")
    assert "the arms LN and DyT are not matched, they differ in config.lr: 0.1 / 0.2" in line
    assert "allowed_differences of the table or of the arm DyT" in line


def test_an_allowed_difference_of_an_arm_excludes_other_fields(project):
    project.recipe(three_arms("SMALL", LR_AND_EPOCHS))
    line = project.mistake("plan", "table1")
    assert "the arms LN and Fixup are not matched, they differ in config.epochs: 1 / 3." in line


def test_the_baseline_arm_refuses_allowed_differences(project):
    """They would belong to no pair."""
    project.recipe(
        "BASE = Arm(name='LN', norm='LN', "
        "allowed_differences={'lr': 'tuned', 'weights': 'other'})\n"
        "TABLE = Table(arms=(BASE, ARMS[1]), scales=(scale(small=SMALL),))"
    )
    assert project.mistake("plan", "table1").endswith(
        "the arm LN is the baseline that the others are compared with: move its "
        "allowed_differences (lr, weights) to the arm that differs, or to the table if all arms do"
    )


def test_check_matched_shows_first_differences_of_long_chains():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Seeded(Config):
        seed: int = 0

    def chain(lr):
        needs = {f"split{i}": run(lr=lr) for i in range(8)}
        return Run(task=run().task, config=Seeded(), needs=needs)

    runs = {"LN": chain(0.1), "DyT": chain(0.2)}
    arms = tuple(Arm(name=name, norm="LN") for name in runs)
    scale = Scale(name="smoke", runs={"row": runs}, seeds=(0,), resources=Resources(minutes=1))
    table = Table(arms=arms, scales=(scale,))
    with pytest.raises(ValueError) as caught:
        check_matched(table, scale)
    shown = "; ".join(f"needs.split{i}.config.lr: 0.1 / 0.2" for i in range(5))
    assert f"they differ in {shown}; and 3 more. Make these equal" in str(caught.value)
