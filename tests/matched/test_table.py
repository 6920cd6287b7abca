"""Tables: the run of every cell, norms of arms, and refusal of inconsistent tables and scales.

The refusal of arms that are not matched is in test_matching.py.
"""

from dataclasses import asdict, dataclass, replace

import pytest

from matched import Arm, Metric, Resources, Run, Scale, Search, Table, Trial
from matched.table import ArmNorms, Cell, runs_with_needs

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
    line = project.mistake("plan", "table1")
    assert "row large at smoke scale is one run for all arms" in line
    assert "no norm is given for tanh, sigmoid: give each arm its norm" in line
    assert "or give the row as {arm name: run}" in line


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
        ({"seeds": ()}, "must be non-empty and distinct"),
        ({"seeds": (0, 1, 0)}, r"seeds \(0, 1, 0\) must be non-empty and distinct"),
        ({"seeds": 3}, r"seeds is 3; expected whole numbers, such as \(0, 1\)"),
        ({"seeds": ("0", "1")}, "seeds is .*; expected whole numbers"),
        ({"resources": None}, "resources is None; expected Resources"),
        ({"metrics": METRIC}, r"metrics is Metric.*; expected a tuple, metrics=\(Metric"),
        ({"metrics": (METRIC, METRIC)}, "metrics has top1 twice; name it once"),
        ({"runs": []}, r"runs is \[\]; expected {row key: Run"),
        ({"runs": {"small": None}}, "row 'small' is None; expected a key of text with a Run"),
        ({"runs": {1: {}}}, "row 1 is {}; expected a key of text"),
    ],
    ids=str,
)
def test_scale_refuses_wrong_names_and_types(changes, message):
    fields = {"name": "smoke", "seeds": (0,), "runs": {}, "resources": Resources(minutes=1)}
    with pytest.raises(ValueError, match=message):
        Scale(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shard_degree": 2}, "shard_degree is 2 and shard False; expected 0, or with shard"),
        ({"shard": True, "shard_degree": -1}, "shard_degree is -1"),
        ({"shard": True, "shard_degree": 3}, "shard_degree 3 does not divide the number of proc"),
    ],
)
def test_resources_refuse_a_wrong_shard_degree(changes, message):
    with pytest.raises(ValueError, match=message):
        Resources(gpus=4, minutes=1, **changes)


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
    with pytest.raises(ValueError, match="scale smoke has no rows; give its runs"):
        Table(arms=(Arm(name="LN", norm="LN"),), scales=(scale,))


@pytest.mark.parametrize("what", ["arms", "scales"])
@pytest.mark.parametrize("times", [0, 2])
def test_table_refuses_missing_or_repeated_arms_and_scales(what, times):
    resources = Resources(minutes=1)
    scale = Scale(name="smoke", seeds=(0,), runs={}, resources=resources)
    fields = {"arms": (Arm(name="LN"),), "scales": (scale,)}
    with pytest.raises(ValueError, match=rf"{what} \[.*\] of a table must be non-empty"):
        Table(**{**fields, what: fields[what] * times})


# --- what a table derives from its parts


@dataclass(frozen=True, kw_only=True)
class Config:
    norm: str = "LN"
    seed: int = 0
    width: int = 8


RUN = Run(task="m:train", config=Config())


def smoke(**runs):
    return Scale(name="smoke", seeds=(0, 1), runs=runs, resources=Resources(minutes=1))


def test_cells_are_ordered_by_row_then_seed_then_arm():
    trials = tuple(
        Trial(values={"width": width}, run=replace(RUN, config=Config(width=width)))
        for width in (4, 16)
    )
    arms = (Arm(name="LN", norm="LN"), Arm(name="DyT", norm="DyT"))
    scale = smoke(b={"LN": RUN, "DyT": Search(metric="loss", trials=trials)}, a=RUN)
    cells = Table(arms=arms, scales=(scale,)).cells(scale)
    assert [str(cell) for cell in cells] == [
        "b · LN · seed 0",
        "b · DyT · 4 · seed 0",
        "b · DyT · 16 · seed 0",
        "b · LN · seed 1",
        "b · DyT · 4 · seed 1",
        "b · DyT · 16 · seed 1",
        "a · LN · seed 0",
        "a · DyT · seed 0",
        "a · LN · seed 1",
        "a · DyT · seed 1",
    ]
    tried = replace(RUN, config=Config(norm="DyT", seed=1, width=16))
    assert cells[5] == Cell(row="b", arm="DyT", seed=1, run=tried, value="16")
    assert (cells[5].column, cells[0].column) == ("DyT · 16", "LN")
    assert scale.search("b", "DyT").trials == trials
    assert [scale.search(*key) for key in (("b", "LN"), ("b", "BN"), ("a", "DyT"))] == [None] * 3


def test_runs_with_needs_come_after_their_needs():
    data = Run(task="m:data", config=Config(width=1))
    trained = Run(task="m:train", config=Config(), needs={"data": data})
    top = Run(task="m:test", config=Config(), needs={"data": data, "model": trained})
    assert list(runs_with_needs(top, "row")) == [
        ("row/data", data),
        ("row/model/data", data),
        ("row/model", trained),
        ("row", top),
    ]


def test_allowed_differences_are_the_tables_and_the_arms():
    fixup = Arm(name="Fixup", norm="none", allowed_differences={"lr": "it needs its own"})
    table = Table(
        arms=(Arm(name="LN", norm="LN"), fixup),
        scales=(smoke(a=RUN),),
        allowed_differences={"weights": "they are drawn by the norm"},
    )
    assert table.allowed_differences_of("LN") == {"norm", "weights"}
    assert table.allowed_differences_of("Fixup") == {"norm", "weights", "lr"}
    assert list(table.allowed_difference_notes()) == [
        "Allowed to differ: weights, because they are drawn by the norm",
        "Allowed to differ: lr (Fixup), because it needs its own",
    ]


def test_arm_norms_of_a_row_precede_those_of_the_scale_and_the_table():
    norms = ArmNorms(norms={"DyT": "scale's"}, by_row={"a": {"DyT": "row's"}}, reason="why")
    dyt = Arm(name="DyT", norm="table's")
    assert [norms.norm(row, dyt) for row in ("a", "b")] == ["row's", "scale's"]
    assert norms.norm("a", Arm(name="LN", norm="table's")) == "table's"
    assert ArmNorms(reason="why").norm("a", dyt) == "table's"


@pytest.mark.parametrize(
    ("resources", "processes", "workers", "on_cpu"),
    [
        (Resources(gpus=4, cpus=10, minutes=60), 4, 9, None),
        (Resources(processes=3, cpus=2, minutes=60), 3, 0, None),
        (
            Resources(gpus=4, cpus=10, memory_gb=8, minutes=60, cpu_minutes=90, runs_per_job=2),
            4,
            9,
            {"gpus": 0, "cpus": 1, "minutes": 90, "cpu_minutes": 0},
        ),
    ],
)
def test_resources_of_processes_with_and_without_gpus(resources, processes, workers, on_cpu):
    assert (resources.world_size, resources.num_workers) == (processes, workers)
    assert asdict(resources.without_gpus()) == {**asdict(resources), **(on_cpu or {})}


def test_scale_on_other_data_has_the_same_name():
    other = replace(smoke(a=RUN), name="mini")
    with pytest.raises(ValueError) as error:
        replace(smoke(a=RUN), on_data={"x": other})
    assert str(error.value) == (
        "scale smoke: on_data['x'] is the scale mini with the rows a; expected smoke with a"
    )


def test_table_checks_norms_of_scales_on_other_data():
    scale = smoke(a=RUN)
    other = replace(scale, arm_norms=ArmNorms(norms={"BN": "BN"}, reason="why"))
    with pytest.raises(ValueError, match=r"^scale smoke: arm_norms names BN; the table's arms are"):
        Table(arms=(Arm(name="LN", norm="LN"),), scales=(replace(scale, on_data={"x": other}),))


def test_rows_have_runs_or_searches_by_arm():
    trials = tuple(Trial(values={"width": width}, run=RUN) for width in (1, 2))
    search = Search(metric="m", trials=trials)
    assert smoke(a={"LN": search}).search("a", "LN") is search
    for runs in ({"a": search}, {"a": {"LN": None}}, {1: RUN}):
        with pytest.raises(ValueError, match=r"expected a key of text with a Run, or {arm name: "):
            Scale(name="smoke", seeds=(0,), runs=runs, resources=Resources(minutes=1))
