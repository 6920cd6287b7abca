"""A recipe whose arms differ in more than the norm is refused before anything runs."""

import pytest

from matched import Arm, Resources, Run, Scale, Table, recipes
from matched.matching import pairs_of

UNLIKE = "Run(task=SMALL.task, config=replace(SMALL.config, lr=0.2, epochs=3))"


def per_arm(dyt: str, more: str = "") -> str:
    return f"TABLE = Table(arms=ARMS, scales=(scale(small={{'LN': SMALL, 'DyT': {dyt}}}),){more})"


def test_the_arms_of_a_row_differ_in_the_norm_alone(project):
    items = project.plan().runs
    assert [(i.title, i.run.config.norm, i.run.config.seed) for i in items[:3]] == [
        ("small · LN · seed 0", "LN", 0),
        ("small · DyT · seed 0", "DyT", 0),
        ("small · LN · seed 1", "LN", 1),
    ]


def test_two_arms_that_differ_in_more_are_refused_in_one_line(project):
    project.recipe(per_arm(UNLIKE))
    line = project.mistake("plan", "table1")
    assert "table1 at smoke scale, row small: the arms LN and DyT are not matched" in line
    assert "config.lr: 0.1 / 0.2; config.epochs: 1 / 3" in line
    assert "exceptions" in line, "says what to do about it"
    assert "config.norm" not in line, "the norm is meant to differ"


@pytest.mark.parametrize("command", ["submit", "status", "table", "audit"])
def test_no_command_takes_such_a_recipe(project, command):
    project.recipe(per_arm(UNLIKE))
    assert "are not matched" in project.mistake(command, "table1")
    assert not (project.root / "runs").exists()


def test_named_exceptions_are_allowed(project):
    project.recipe(per_arm(UNLIKE, ", allowed_differences={'lr': 'tuned', 'epochs': 'why not'}"))
    assert "4 of 4 runs to do" in project.cli("plan", "table1")


def test_an_exception_frees_its_own_field_only(project):
    project.recipe(per_arm(UNLIKE, ", allowed_differences={'lr': 'tuned'}"))
    line = project.mistake("plan", "table1")
    assert "config.epochs: 1 / 3" in line and "config.lr" not in line


def test_another_task_is_a_difference(project):
    project.recipe(per_arm("Run(task='tiny:other', config=SMALL.config)"))
    assert "task: 'tiny:train' / 'tiny:other'" in project.mistake("plan", "table1")


def test_another_prerequisite_is_a_difference(project):
    project.recipe(per_arm("Run(task=SMALL.task, config=SMALL.config, needs={'start': LARGE})"))
    assert "needs.start" in project.mistake("plan", "table1")


def test_a_difference_below_a_prerequisite_is_named(project):
    project.recipe(
        "def top(lr):\n"
        "    need = Run(task='tiny:train', config=replace(SMALL.config, lr=lr))\n"
        "    return Run(task='tiny:train', config=LARGE.config, needs={'start': need})\n\n\n"
        "TABLE = Table(arms=ARMS, scales=(scale(large={'LN': top(0.1), 'DyT': top(0.2)}),))"
    )
    assert "needs.start.config.lr: 0.1 / 0.2" in project.mistake("plan", "table1")


def test_every_scale_is_checked_whichever_is_asked_for(project):
    project.recipe(
        f"TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),"
        f" scale(name='paper', small={{'LN': SMALL, 'DyT': {UNLIKE}}})))"
    )
    assert "table1 at paper scale" in project.mistake("plan", "table1", "--scale", "smoke")


def test_a_run_of_each_arm_may_be_given(project):
    same = "replace(SMALL, config=replace(SMALL.config, lr=0.1))"
    project.recipe(per_arm(same))
    assert [i.run.config.norm for i in project.plan().runs] == ["LN", "DyT"] * 2


def test_an_arm_that_a_row_lacks_is_a_dash(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small={'LN': SMALL}, large=LARGE),))"
    )
    assert [i.title for i in project.plan().runs] == [
        "small · LN · seed 0",
        "large · LN · seed 0",
        "large · DyT · seed 0",
    ]
    project.finish("small.LN.0", top1=81.0)
    project.cli("table", "table1")
    row = (project.root / "results/table1.smoke.md").read_text(encoding="utf-8").splitlines()[6]
    assert row == "| Small_1 | 81.0 | — | — | 82.3 | 82.5 | +0.2 | 1/1 | — |"


# --- exceptions of one arm

THREE_ARMS = """
THREE = (*ARMS, Arm(name="Fixup", norm="own", allowed_differences={'lr': 'it needs its own'}))
OTHER = replace(SMALL, config=replace(SMALL.config, lr=0.2))
"""


def three_arms(dyt, fixup):
    runs = f"{{'LN': SMALL, 'DyT': {dyt}, 'Fixup': {fixup}}}"
    return f"{THREE_ARMS}TABLE = Table(arms=THREE, scales=(scale(seeds=(0,), small={runs}),))"


def test_an_exception_of_an_arm_is_allowed_in_that_arm(project):
    project.recipe(three_arms("SMALL", "OTHER"))
    assert "3 of 3 runs to do" in project.cli("plan", "table1")


def test_an_exception_of_an_arm_frees_no_other_arm(project):
    project.recipe(three_arms("OTHER", "OTHER"))
    line = project.mistake("plan", "table1")
    assert "the arms LN and DyT are not matched, they differ in config.lr: 0.1 / 0.2" in line
    assert "among the exceptions of the table or of the arm DyT" in line


def test_an_exception_of_an_arm_frees_its_own_field_only(project):
    project.recipe(three_arms("SMALL", UNLIKE))
    line = project.mistake("plan", "table1")
    assert "the arms LN and Fixup are not matched, they differ in config.epochs: 1 / 3." in line


def test_the_baseline_has_no_exceptions(project):
    """Of which pairs would they be?"""
    project.recipe(
        "BASE = Arm(name='LN', norm='LN', "
        "allowed_differences={'lr': 'tuned', 'weights': 'other'})\n"
        "TABLE = Table(arms=(BASE, ARMS[1]), scales=(scale(small=SMALL),))"
    )
    line = project.mistake("plan", "table1")
    assert "the arm LN is the baseline" in line and "its allowed_differences (lr, weights)" in line
    assert "to the arm that differs, or to the table" in line


# --- runs that bring their own norm

OWN_NORMS = """
def own(norm, lr=0.1):
    start = Run(task="tiny:train", config=Config(model="start", norm=f"{norm} at first"))
    return Run(task="tiny:train", config=Config(norm=norm, lr=lr), needs={"start": start})


BARE = (Arm(name="tanh"), Arm(name="sigmoid"))
"""


def norms(project):
    """Row and arm → the norm of the run and of what it needs, with its seed."""
    return {
        (cell.row, cell.arm): (config.norm, need.norm, config.seed, need.seed)
        for planned in project.plan().runs
        for cell in planned.cells
        for config, need in [(cell.run.config, cell.run.needs["start"].config)]
    }


def test_the_runs_of_an_arm_without_a_norm_keep_their_own(project):
    project.recipe(
        f"{OWN_NORMS}TABLE = Table(arms=BARE, scales=(scale(seeds=(7,),"
        " small={'tanh': own('tanh'), 'sigmoid': own('sigmoid')},"
        " large={'tanh': own('tanh without'), 'sigmoid': own('sigmoid without')}),))"
    )
    assert norms(project) == {
        ("small", "tanh"): ("tanh", "tanh at first", 7, 7),
        ("small", "sigmoid"): ("sigmoid", "sigmoid at first", 7, 7),
        ("large", "tanh"): ("tanh without", "tanh without at first", 7, 7),
        ("large", "sigmoid"): ("sigmoid without", "sigmoid without at first", 7, 7),
    }


def test_an_arm_with_a_norm_may_stand_beside_one_without(project):
    project.recipe(
        f"{OWN_NORMS}TABLE = Table(arms=(ARMS[0], BARE[1]), scales=(scale(seeds=(7,),"
        " small={'LN': own('tanh'), 'sigmoid': own('sigmoid')}),))"
    )
    assert norms(project) == {
        ("small", "LN"): ("LN", "LN", 7, 7),
        ("small", "sigmoid"): ("sigmoid", "sigmoid at first", 7, 7),
    }


def test_arms_that_bring_their_own_norm_differ_in_it_alone(project):
    project.recipe(
        f"{OWN_NORMS}TABLE = Table(arms=BARE, scales=(scale("
        "small={'tanh': own('tanh'), 'sigmoid': own('sigmoid', lr=0.2)}),))"
    )
    line = project.mistake("plan", "table1")
    assert "the arms tanh and sigmoid are not matched, they differ in config.lr: 0.1 / 0.2" in line


def test_an_arm_without_a_norm_cannot_be_derived_from_one_run(project):
    project.recipe(
        f"{OWN_NORMS}TABLE = Table(arms=(ARMS[0], *BARE), scales=(scale("
        "small={'tanh': own('tanh')}, large=LARGE),))"
    )
    line = project.mistake("plan", "table1")
    assert "row large at smoke scale is one run for all arms" in line
    assert "no norm is given for tanh, sigmoid: give each arm its norm" in line
    assert "or give the row as {arm name: run}" in line


# --- rows and cells


def test_a_mistyped_arm_is_not_taken_for_a_missing_one(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small={'LN': SMALL, 'Dyt': SMALL}),))")
    assert "unknown arm of table1" in (line := project.mistake("plan", "table1"))
    assert "'Dyt'" in line and "DyT, LN" in line


def test_a_run_that_two_cells_show_is_computed_once(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL, large=SMALL),))"
    )
    (ln, _) = project.plan().runs
    assert [str(cell) for cell in ln.cells] == ["small · LN · seed 0", "large · LN · seed 0"]


def test_pairs_are_of_one_row_and_one_seed(project):
    recipe = recipes.load("table1")
    cells = list(recipe.table.cells(recipe.scale("smoke")))
    pairs = pairs_of(cells, "LN")
    assert len(pairs) == 4
    for one, other in pairs:
        assert (one.row, one.seed) == (other.row, other.seed)
        assert (one.arm, other.arm) == ("LN", "DyT")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "tiny"}, "scale 'tiny' is not one of smoke, mini, paper"),
        ({"seeds": ()}, "must be distinct, one or more"),
        ({"seeds": (0, 1, 0)}, r"seeds \(0, 1, 0\) must be distinct"),
    ],
    ids=str,
)
def test_a_scale_refuses(changes, message):
    fields = {"name": "smoke", "seeds": (0,), "runs": {}, "resources": Resources(minutes=1)}
    with pytest.raises(ValueError, match=message):
        Scale(**{**fields, **changes})


def test_seeds_go_into_prerequisites_too(project):
    tiny = pytest.importorskip("tiny")
    need = Run(task="tiny:train", config=tiny.Config(model="large"))
    top = Run(task="tiny:train", config=tiny.Config(), needs={"start": need})
    scale = Scale(name="smoke", seeds=(7,), runs={"r": top}, resources=Resources(minutes=1))
    table = Table(arms=(Arm(name="LN", norm="LN"), Arm(name="DyT", norm="DyT")), scales=(scale,))
    found = [(c.arm, c.run.needs["start"].config) for c in table.cells(scale)]
    assert [(arm, config.norm, config.seed) for arm, config in found] == [
        ("LN", "LN", 7),
        ("DyT", "DyT", 7),
    ]
