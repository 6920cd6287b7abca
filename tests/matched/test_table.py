"""Tables: the run of every cell, norms of arms, and refusal of inconsistent tables and scales.

The refusal of arms that are not matched is in test_matching.py.
"""

from dataclasses import replace

import pytest

from matched import Arm, Metric, Resources, Run, Scale, Table

METRIC = Metric(key="top1", label="top-1", direction="higher")


def test_arms_of_a_row_differ_in_the_norm_only(project):
    runs = project.plan().runs
    assert [(r.title, r.run.config.norm, r.run.config.seed) for r in runs[:3]] == [
        ("small · LN · seed 0", "LN", 0),
        ("small · DyT · seed 0", "DyT", 0),
        ("small · LN · seed 1", "LN", 1),
    ]


def test_a_row_may_have_one_run_per_arm(project):
    project.recipe(
        "DYT = replace(SMALL, config=replace(SMALL.config, lr=0.1))\n"
        "TABLE = Table(arms=ARMS, scales=(scale(small={'LN': SMALL, 'DyT': DYT}),))"
    )
    assert [r.run.config.norm for r in project.plan().runs] == ["LN", "DyT"] * 2


def test_an_arm_missing_in_a_row_is_a_dash(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small={'LN': SMALL}, large=LARGE),))"
    )
    assert [r.title for r in project.plan().runs] == [
        "small · LN · seed 0",
        "large · LN · seed 0",
        "large · DyT · seed 0",
    ]
    project.finish("small.LN.0", top1=81.0)
    project.cli("table", "table1")
    row = (project.root / "results/table1.smoke.md").read_text(encoding="utf-8").splitlines()[6]
    assert row == "| Small_1 | 81.0 | — | — | 82.3 | 82.5 | +0.2 | 1/1 | — |"


# --- norms of a scale

SCALE_NORMS = (
    "NORMS = ArmNorms(norms={'DyT': 'DyT with a larger alpha0'}, reason='it is narrow')\n"
    "SMOKE = replace(scale(seeds=(0,), small=SMALL), arm_norms=NORMS)\n"
    "TABLE = Table(arms=ARMS, scales=(SMOKE,))"
)


def test_arm_norms_of_a_scale_replace_those_of_the_table(project):
    project.recipe(SCALE_NORMS)
    assert [r.run.config.norm for r in project.plan().runs] == ["LN", "DyT with a larger alpha0"]
    output = project.cli("table", "table1")
    assert "Norms at this scale: DyT with a larger alpha0, because it is narrow." in output


def test_arm_norms_refuse_an_unknown_arm(project):
    project.recipe(SCALE_NORMS.replace("'DyT': ", "'DYT': "))
    line = project.mistake("plan", "table1")
    assert "scale smoke: arm_norms names DYT; the table's arms are LN, DyT" in line


BY_ROW = (
    "NORMS = ArmNorms(by_row={'large': {'DyT': 'DyT, wide'}}, norms={'DyT': 'DyT, narrow'},"
    " reason='widths differ')\n"
    "SMOKE = replace(scale(seeds=(0,), small=SMALL, large=LARGE), arm_norms=NORMS)\n"
    "TABLE = Table(arms=ARMS, scales=(SMOKE,))"
)


def test_arm_norms_by_row_precede_those_of_the_scale(project):
    project.recipe(BY_ROW)
    norms = [planned.run.config.norm for planned in project.plan().runs]
    assert norms == ["LN", "DyT, narrow", "LN", "DyT, wide"]
    output = project.cli("table", "table1")
    assert "scale: DyT, narrow; DyT, wide for Large, because widths differ." in output


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("'large'", "'huge'", "huge; the table's rows"),
        ("'DyT': 'DyT, wide'", "'DYT': 'x'", "DYT; the table's arms"),
    ],
)
def test_arm_norms_by_row_refuse_unknown_rows_and_arms(project, old, new, what):
    project.recipe(BY_ROW.replace(old, new))
    assert f"scale smoke: arm_norms names {what} are " in project.mistake("plan", "table1")


def test_scale_on_other_data_needs_the_same_rows(project):
    project.recipe(
        "OTHER = scale(large=LARGE)\n"
        "TABLE = Table(arms=ARMS, scales=(replace(scale(small=SMALL), on_data={'x': OTHER}),))"
    )
    line = project.mistake("plan", "table1")
    assert "on_data['x'] is the scale smoke with the rows large; expected smoke with small" in line


# --- arms without a norm: the runs have it in their own configs

OWN_NORMS = """
def own(norm):
    start = Run(task="tiny:train", config=Config(model="start", norm=f"{norm} at first"))
    return Run(task="tiny:train", config=Config(norm=norm), needs={"start": start})


WITHOUT_NORM = (Arm(name="tanh"), Arm(name="sigmoid"))
"""


def norms(project):
    """Row and arm → norm of the run, norm of its need, seed of the run, seed of its need."""
    return {
        (cell.row, cell.arm): (config.norm, need.norm, config.seed, need.seed)
        for planned in project.plan().runs
        for cell in planned.cells
        for config, need in [(cell.run.config, cell.run.needs["start"].config)]
    }


def test_an_arm_without_a_norm_keeps_each_runs_norm(project):
    project.recipe(
        f"{OWN_NORMS}TABLE = Table(arms=WITHOUT_NORM, scales=(scale(seeds=(7,),"
        " small={'tanh': own('tanh'), 'sigmoid': own('sigmoid')},"
        " large={'tanh': own('tanh without'), 'sigmoid': own('sigmoid without')}),))"
    )
    assert norms(project) == {
        ("small", "tanh"): ("tanh", "tanh at first", 7, 7),
        ("small", "sigmoid"): ("sigmoid", "sigmoid at first", 7, 7),
        ("large", "tanh"): ("tanh without", "tanh without at first", 7, 7),
        ("large", "sigmoid"): ("sigmoid without", "sigmoid without at first", 7, 7),
    }


def test_arms_with_and_without_a_norm_can_be_combined(project):
    project.recipe(
        f"{OWN_NORMS}TABLE = Table(arms=(ARMS[0], WITHOUT_NORM[1]), scales=(scale(seeds=(7,),"
        " small={'LN': own('tanh'), 'sigmoid': own('sigmoid')}),))"
    )
    assert norms(project) == {
        ("small", "LN"): ("LN", "LN", 7, 7),
        ("small", "sigmoid"): ("sigmoid", "sigmoid at first", 7, 7),
    }


def test_an_arm_without_a_norm_needs_one_run_per_arm(project):
    project.recipe(
        f"{OWN_NORMS}TABLE = Table(arms=(ARMS[0], *WITHOUT_NORM), scales=(scale("
        "small={'tanh': own('tanh')}, large=LARGE),))"
    )
    assert project.mistake("plan", "table1").endswith(
        ": row large at smoke scale is one run for all arms, and no norm is given for tanh, "
        "sigmoid: give each arm its norm, or give the row as {arm name: run} with a norm in the "
        "config of every run"
    )


# --- rows and cells


def test_a_misspelt_arm_is_refused(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small={'LN': SMALL, 'Dyt': SMALL}),))")
    assert "unknown arm of table1" in (line := project.mistake("plan", "table1"))
    assert "'Dyt'" in line and "DyT, LN" in line


def test_a_run_of_two_cells_is_planned_once(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL, large=SMALL),))"
    )
    (ln, _) = project.plan().runs
    assert [str(cell) for cell in ln.cells] == ["small · LN · seed 0", "large · LN · seed 0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "tiny"}, "scale 'tiny' is not one of smoke, mini, paper"),
        ({"seeds": ()}, "scale smoke: seeds () must be non-empty and distinct"),
        ({"seeds": (0, 1, 0)}, "scale smoke: seeds (0, 1, 0) must be non-empty and distinct"),
        ({"seeds": 3}, "scale smoke: seeds is 3; expected whole numbers, such as (0, 1)"),
        (
            {"seeds": (0, "1")},
            "scale smoke: seeds is (0, '1'); expected whole numbers, such as (0, 1)",
        ),
        (
            {"seeds": (False,)},
            "scale smoke: seeds is (False,); expected whole numbers, such as (0, 1)",
        ),
        (
            {"resources": None},
            "scale smoke: resources is None; expected Resources(minutes=…)",
        ),
        (
            {"resource_overrides": {"small": 3}},
            "scale smoke: small is 3; expected Resources(minutes=…)",
        ),
        (
            {"metrics": "top1"},
            "scale smoke: metrics is 'top1'; expected a tuple, metrics=(Metric(…),)",
        ),
        (
            {"metrics": (METRIC, 3, METRIC)[1:2]},
            "scale smoke: metrics is (3,); expected a tuple, metrics=(Metric(…),)",
        ),
        ({"metrics": (METRIC, METRIC)}, "scale smoke: metrics has top1 twice; name it once"),
        (
            {"metrics": (METRIC, replace(METRIC, key="loss"), METRIC)},
            "scale smoke: metrics has top1 twice; name it once",
        ),
        ({"runs": []}, "scale smoke: runs is []; expected {row key: Run(…)}"),
        (
            {"runs": {"small": None}},
            "scale smoke: row 'small' is None; expected a key of text with a Run, or {arm name: Run"
            " or Search}",
        ),
        (
            {"runs": {1: {}}},
            "scale smoke: row 1 is {}; expected a key of text with a Run, or {arm name: Run or "
            "Search}",
        ),
    ],
    ids=str,
)
def test_scale_refuses_wrong_names_and_types(changes, message):
    fields = {"name": "smoke", "seeds": (0,), "runs": {}, "resources": Resources(minutes=1)}
    with pytest.raises(ValueError) as error:
        Scale(**{**fields, **changes})
    assert str(error.value) == message


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"shard_degree": 2},
            "shard_degree is 2 and shard False; expected 0, or with shard a number of processes",
        ),
        (
            {"shard": True, "shard_degree": -1},
            "shard_degree is -1 and shard True; expected 0, or with shard a number of processes",
        ),
        (
            {"shard": True, "shard_degree": 3},
            "shard_degree 3 does not divide the number of processes 4",
        ),
    ],
)
def test_resources_refuse_a_wrong_shard_degree(changes, message):
    with pytest.raises(ValueError) as error:
        Resources(gpus=4, minutes=1, **changes)
    assert str(error.value).startswith(message)
    assert Resources(gpus=4, minutes=1, shard=True, shard_degree=2).shard_degree == 2


def test_table_cells_set_norm_and_seed_in_needs(project):
    tiny = pytest.importorskip("tiny")
    need = Run(task="tiny:train", config=tiny.Config(model="large"))
    top = Run(task="tiny:train", config=tiny.Config(), needs={"start": need})
    scale = Scale(name="smoke", seeds=(7,), runs={"r": top}, resources=Resources(minutes=1))
    table = Table(arms=(Arm(name="LN", norm="LN"), Arm(name="DyT", norm="DyT")), scales=(scale,))
    need_configs = [(c.arm, c.run.needs["start"].config) for c in table.cells(scale)]
    assert [(arm, config.norm, config.seed) for arm, config in need_configs] == [
        ("LN", "LN", 7),
        ("DyT", "DyT", 7),
    ]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"minutes": 0}, "minutes is 0; expected a whole number of 1 or more"),
        ({"minutes": -5}, "minutes is -5; expected a whole number of 1 or more"),
        ({"minutes": float("nan")}, "minutes is nan; expected a whole number of 1 or more"),
        ({"minutes": 1, "gpus": -1}, "gpus is -1; expected a whole number of 0 or more"),
        ({"minutes": 1, "runs_per_job": 0}, "runs_per_job is 0; expected a whole number of 1"),
        ({"minutes": 1, "cpus": 0}, "cpus is 0; expected a whole number of 1"),
        ({"minutes": 1, "memory_gb": 0}, "memory_gb is 0; expected a whole number of 1"),
        ({"minutes": 1, "processes": 0}, "processes is 0; expected a whole number of 1"),
        ({"minutes": 1, "cpu_minutes": -1}, "cpu_minutes is -1; expected a whole number of 0"),
    ],
)
def test_resources_refuse_numbers_below_their_minimum(numbers, message):
    with pytest.raises(ValueError, match=message):
        Resources(**numbers)


def test_metric_refuses_an_unknown_direction():
    with pytest.raises(ValueError, match="direction is 'up'; expected 'higher', 'lower' or 'none'"):
        Metric(key="top1", label="top-1", direction="up")


def test_table_refuses_a_scale_without_rows():
    scale = Scale(name="smoke", seeds=(0,), runs={}, resources=Resources(minutes=1))
    with pytest.raises(ValueError) as error:
        Table(arms=(Arm(name="LN", norm="LN"),), scales=(scale,))
    assert str(error.value) == "scale smoke has no rows; give its runs, {row key: Run(…)}"


@pytest.mark.parametrize("what", ["arms", "scales"])
@pytest.mark.parametrize("times", [0, 2])
def test_table_refuses_missing_or_repeated_arms_and_scales(what, times):
    resources = Resources(minutes=1)
    scale = Scale(name="smoke", seeds=(0,), runs={}, resources=resources)
    fields = {"arms": (Arm(name="LN"),), "scales": (scale,)}
    names = [item.name for item in fields[what]] * times
    with pytest.raises(ValueError) as error:
        Table(**{**fields, what: fields[what] * times})
    assert str(error.value) == f"{what} {names} of a table must be non-empty and distinct"
