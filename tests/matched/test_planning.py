"""Plans: what is read and derived once, and runs that end while a plan is made."""

import os
from dataclasses import replace

import pytest

from matched import Resources, job_status, planning, preflight, recipes, run_directory, site, table
from matched.status import Failure


def test_make_plan_parses_files_of_finished_runs_once(one_row, parsed):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.finish(name, top1=1.0)
    parsed.clear()
    assert [planned.status.state for planned in one_row.plan().runs] == ["done", "done"]
    assert sorted(parsed) == ["config.json"] * 2 + ["result.json"] * 2


def test_make_plan_sees_a_run_that_ends_while_jobs_are_asked(one_row, monkeypatch):
    """Its job is over by then, which must not make it a failed run."""
    one_row.begun("small.LN.0", "local", str(os.getpid()))
    real = job_status.job_statuses

    def job_statuses(directories, queue=None, **options):
        directories = list(directories)
        one_row.finish("small.LN.0", top1=1.0)
        return dict.fromkeys(real(directories, queue, **options), run_directory.OVER)

    monkeypatch.setattr(job_status, "job_statuses", job_statuses)
    assert [planned.status.state for planned in one_row.plan().runs] == ["done", "new"]


def test_loading_and_planning_derive_every_run_once(project, monkeypatch):
    derived = []
    real = table.derive_run

    def derive_run(run, *, norm, seed):
        derived.append((run.config, norm, seed))
        return real(run, norm=norm, seed=seed)

    monkeypatch.setattr(table, "derive_run", derive_run)
    plan = project.plan()
    cells = [cell for scale in plan.recipe.table.scales for cell in plan.recipe.table.cells(scale)]
    assert len(derived) == len(cells)


def test_jobs_are_asked_for_unfinished_runs_only(one_row, monkeypatch):
    one_row.finish("small.LN.0", top1=1.0)
    asked = []

    def job_statuses(directories, queue=None, finished=()):
        asked.append(([d.path for d in directories], queue, [d.path for d in finished]))
        return {}

    monkeypatch.setattr(job_status, "job_statuses", job_statuses)
    one_row.plan().refreshed("queue")
    ln, dyt = (one_row.directory(f"small.{norm}.0").path for norm in ("LN", "DyT"))
    assert asked == [([dyt], None, [ln]), ([dyt], "queue", [ln])]


CHAIN = """
DATA = Run(task="tiny:train", config=Config(model="data"))
START = Run(task="tiny:train", config=Config(model="start"), needs={"data": DATA})
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})
TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=SMALL, large=START),))
"""


def test_runs_are_named_after_the_first_cell_that_needs_them(project):
    project.recipe(CHAIN)
    plan = project.plan()
    assert [(planned.title, [str(cell) for cell in planned.cells]) for planned in plan.runs] == [
        ("small · LN · seed 0 · begin · data", []),
        ("large · LN · seed 0", ["large · LN · seed 0"]),  # the start, which has a cell
        ("small · LN · seed 0", ["small · LN · seed 0"]),
    ]
    assert {planned.resources for planned in plan.runs} == {plan.scale.resources}
    assert plan.by_run == {planned.run: planned for planned in plan.runs}
    recipe = recipes.load("table1")
    last = recipe.table.cells(plan.scale)[1:]
    part = planning.make_plan(recipe, plan.scale, site.read(project.root / site.FILE), last)
    assert [planned.title for planned in part.runs] == [
        "large · LN · seed 0 · data",
        "large · LN · seed 0",
    ]


def test_plan_divides_runs_by_what_is_to_do(project):
    project.finish("small.LN.0", top1=1.0)
    project.finish("small.LN.1", outcome="diverged")
    (project.finish("small.DyT.0", top1=1.0) / "result.json").write_text("{")
    failed = project.directory("small.DyT.1")
    failed.prepare()
    failed.write_failure(Failure(reason="why"))
    project.begun("large.LN.0", "local", str(os.getpid()))
    project.given("large.LN.1", "local", str(os.getpid()))
    plan = project.plan()

    def titles(runs):
        return [planned.title for planned in runs]

    assert titles(plan.missing) == [
        "small · DyT · seed 1",
        "large · DyT · seed 0",
        "large · DyT · seed 1",
    ]
    assert titles(plan.damaged) == ["small · DyT · seed 0"]
    assert titles(plan.runs) == [
        f"{row} · {arm} · seed {seed}"
        for row in ("small", "large")
        for seed in (0, 1)
        for arm in ("LN", "DyT")
    ]
    finished = ["small · LN · seed 0", "small · LN · seed 1"]
    assert titles(plan.unfinished) == [one for one in titles(plan.runs) if one not in finished]


SEARCH = """
from matched import Search, Trial

TRIALS = tuple(
    Trial(values={"lr": lr}, run=replace(SMALL, config=replace(SMALL.config, lr=lr)))
    for lr in (0.1, 0.2)
)
ROW = {"LN": SMALL, "DyT": Search(metric="top1", trials=TRIALS, @)}
TABLE = Table(arms=ARMS, scales=(replace(scale(seeds=(0,), small=ROW), resource_overrides=@@),),
    allowed_differences={"lr": "it is tuned"})
"""


@pytest.mark.parametrize(
    ("times", "overrides", "changes"),
    [
        ("minutes=7", "{}", {"minutes": 7}),
        ("cpu_minutes=9", "{}", {"cpu_minutes": 9}),
        ("minutes=7, cpu_minutes=9", "{}", {"minutes": 7, "cpu_minutes": 9}),
        ("", "{}", {}),
        ("minutes=7", "{'small': Resources(gpus=4, minutes=1)}", {"minutes": 7, "gpus": 4}),
    ],
)
def test_runs_of_a_search_take_its_own_minutes(project, times, overrides, changes):
    project.recipe(SEARCH.replace("@@", overrides).replace("@", times))
    plan = project.plan()
    base, *trials = (planned.resources for planned in plan.runs)
    general = plan.scale.resources
    if "gpus" in changes:
        assert base == Resources(gpus=4, minutes=1)
        general = base
    else:
        assert base == general
    assert trials == [replace(general, **changes)] * 2


# --- checks before runs are computed in this process


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("running", "small · LN · seed 0 is running already; see `matched status`"),
        ("queued", "small · LN · seed 0 is queued already; see `matched status`"),
        (
            "damaged",
            "damaged: {file} is not valid JSON (Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)); `matched retry table1 --scale smoke` sets it aside",
        ),
    ],
)
def test_check_foreground_refuses_runs_that_are_live_or_damaged(one_row, state, message):
    preflight.check_foreground(one_row.plan())
    directory = one_row.directory("small.LN.0")
    if state == "damaged":
        (one_row.finish("small.LN.0", top1=1.0) / "result.json").write_text("{")
    else:
        make = {"running": one_row.begun, "queued": one_row.given}[state]
        make("small.LN.0", "local", str(os.getpid()))
    with pytest.raises(ValueError) as error:
        preflight.check_foreground(one_row.plan())
    assert str(error.value) == message.format(file=directory / "result.json")
