"""Cells, norms and allowed differences that a table derives from its parts; needs of runs."""

from dataclasses import asdict, dataclass, replace

import pytest

from matched import Arm, Resources, Run, Scale, Search, Table, Trial
from matched.table import ArmNorms, Cell, runs_with_needs


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


def test_arm_norms_of_a_row_precede_those_of_scales():
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
