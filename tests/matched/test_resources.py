"""resource_overrides: runs of one table that request different resources, and their jobs."""

import re

import pytest

from matched import (
    Resources,
    Run,
    Scale,
    TrainConfig,
    job_packing,
    preflight,
    slurm_request,
    submission,
)

BIG = "Resources(gpus=16, cpus=4, memory_gb=10, minutes=60, shard=True)"
WIDE = "Resources(gpus=4, cpus=10, memory_gb=48, minutes=30, runs_per_job=2)"
KINDS = """
START = Run(task="tiny:train", config=Config(model="start"))
TOP = Run(task="tiny:train", config=Config(model="small"), needs={{"start": START}})
SCALE = scale(seeds=(0,), gpus=2, small=TOP, large=LARGE)
TABLE = Table(arms=ARMS, scales=(replace(SCALE, resource_overrides={{{resource_overrides}}}),))
"""


def kinds(**overrides):
    """Return a recipe with row small, which needs START, and row large; overrides by place."""
    return KINDS.format(
        resource_overrides=", ".join(f"'{key}': {value}" for key, value in overrides.items())
    )


THREE_KINDS = kinds(**{"small/start": BIG, "large": WIDE})


def gpus(project):
    """Map "<model>.<norm>" to the GPUs that the run requests."""
    configs = ((planned.run.config, planned.resources) for planned in project.plan().runs)
    return {f"{config.model}.{config.norm}": resources.gpus for config, resources in configs}


def finish(project, *sizes):
    """Write results for the runs that request one of these numbers of GPUs."""
    for planned in project.plan().runs:
        if planned.resources.gpus in sizes:
            planned.directory.prepare()
            planned.directory.write_result({"outcome": "done", "metrics": {}})


def jobs(project, cluster):
    packed = job_packing.pack_jobs(project.plan(), cluster)
    return [
        ([f"{i.run.config.model}.{i.run.config.norm}" for i in job.runs], job.resources.gpus)
        for job in packed
    ]


# --- which override applies


def test_all_runs_have_the_scales_resources_by_default(project):
    project.recipe(kinds())
    assert set(gpus(project).values()) == {2}


def test_overrides_of_a_row_and_of_a_need(project):
    project.recipe(THREE_KINDS)
    assert gpus(project) == {
        "start.LN": 16,
        "small.LN": 2,
        "large.LN": 4,
        "start.DyT": 16,
        "small.DyT": 2,
        "large.DyT": 4,
    }


def test_override_of_a_row_does_not_cover_its_needs(project):
    project.recipe(kinds(small=WIDE))
    assert (gpus(project)["small.LN"], gpus(project)["start.LN"]) == (4, 2)


def test_override_of_a_need_of_a_need(project):
    recipe = kinds(**{"large/middle/start": BIG}).replace(
        "SCALE =",
        "MIDDLE = Run(task='tiny:train', config=Config(model='middle'), needs={'start': START})\n"
        "LARGE = Run(task='tiny:train', config=LARGE.config, needs={'middle': MIDDLE})\n"
        "SCALE =",
    )
    project.recipe(recipe)
    requested = gpus(project)
    assert [requested[f"{model}.LN"] for model in ("start", "middle", "large")] == [16, 2, 2]


def test_first_row_that_overrides_a_shared_run_wins(project):
    """Also in a plan of one cell of another row: resources belong to the run, not to the cell."""
    shared = "SCALE = scale(seeds=(0,), gpus=2, small=TOP, large=replace(TOP, config=LARGE.config))"
    recipe = kinds(**{"large/start": WIDE, "small/start": BIG})
    project.recipe(re.sub("SCALE = .*", shared, recipe))
    assert gpus(project)["start.LN"] == 16
    project.recipe(re.sub("SCALE = .*", shared, kinds(**{"large/start": WIDE})))
    assert gpus(project)["start.LN"] == 4, "the first row does not name it"
    output = project.compute("run", "table1", "--row", "small", "--arm", "LN")
    assert "done  top1" in output
    assert "start.LN.0" in runs_by_num_workers(project)[9], "10 cores minus one, as for row large"


@pytest.mark.parametrize("place", ["smal", "small/begin", "start", "large/start", "small/"])
def test_override_of_an_unknown_place_is_refused(project, place):
    project.recipe(kinds(**{place: WIDE}))
    line = project.mistake("plan", "table1")
    assert (
        f"scale smoke: resource_overrides names {place}, which is neither a row nor a run "
        "that a row needs" in line
    )
    assert line.endswith("known are small/start, small, large")


def test_override_of_a_need_of_one_arm():
    config = TrainConfig(epochs=1, batch=1, micro_batch=1, lr=0.1)
    start = Run(task="tiny:train", config=config)
    top = Run(task="tiny:train", config=config, needs={"start": start})
    resources = Resources(minutes=1)
    options = {"name": "smoke", "seeds": (0,), "resources": resources}
    runs = {"row": {"LN": start, "DyT": top}}
    assert Scale(
        runs=runs, resource_overrides={"row/start": resources}, **options
    ).resource_overrides
    with pytest.raises(
        ValueError, match=r"resource_overrides names row/stop, .*known are row, row/start$"
    ):
        Scale(runs=runs, resource_overrides={"row/stop": resources}, **options)


# --- Slurm


def test_slurm_job_has_runs_of_equal_resources(project):
    recipe = THREE_KINDS.replace("gpus=2", "gpus=2, runs_per_job=2")
    project.recipe(recipe)
    assert jobs(project, "slurm") == [
        (["start.LN"], 16),
        (["start.DyT"], 16),
        (["large.LN", "large.DyT"], 4),
        (["small.LN", "small.DyT"], 2),
    ]
    assert [job.after for job in job_packing.pack_jobs(project.plan(), "slurm")] == [
        (),
        (),
        (),
        (0, 1),
    ]


def test_slurm_array_has_jobs_of_equal_resources(project):
    project.recipe(THREE_KINDS.replace("runs_per_job=2", "runs_per_job=1"))
    packed = job_packing.pack_jobs(project.plan(), "slurm")
    assert job_packing.job_arrays(packed, 1000) == [[0, 1], [2, 3], [4], [5]]
    assert [job.resources.gpus for job in packed] == [16, 16, 4, 4, 2, 2]


def test_slurm_job_runner_gets_the_resources_of_its_runs(project):
    project.recipe(THREE_KINDS)
    plan = project.plan()
    runners = [
        submission._job_runner(plan, job, "slurm", i, token="t1")
        for i, job in enumerate(job_packing.pack_jobs(plan, "slurm"))
    ]
    assert [runner.threads for runner in runners] == [4, 4, 10, 10, 10]
    assert [[r.num_workers for r in runner.resources] for runner in runners] == [
        [3],
        [3],
        [9, 9],
        [9],
        [9],
    ]
    assert [runner.resources[0].shard for runner in runners] == [True, True, False, False, False]


OPTION = r"#SBATCH --([\w-]+)=?(.*)"
SBATCH = """
n=1; while [ -e "$HOME/sbatch.$n" ]; do n=$((n + 1)); done
for script; do :; done
cat "$script" > "$HOME/sbatch.$n"
echo "Submitted batch job $n"
"""
REQUESTED = ("nodes", "gpus-per-node", "cpus-per-task", "mem", "time")


def test_plan_shows_the_sbatch_options_of_each_kind(project):
    project.recipe(THREE_KINDS)
    project.program("srun", "")
    project.program("squeue", "")
    project.program("sbatch", SBATCH)
    output = project.cli("plan", "table1", "--cluster", "slurm")
    shown = [dict(re.findall(OPTION, part)) for part in output.split("Slurm is asked for")[1:]]
    assert [tuple(script[key] for key in REQUESTED) for script in shown] == [
        ("2", "8", "4", "80GB", "60"),
        ("1", "4", "10", "192GB", "60"),
        ("1", "2", "10", "96GB", "30"),
    ], "the last two requests are equal and shown once"
    assert [script.get("array") for script in shown] == ["0-1%2", None, None]
    project.cli("submit", "table1", "--cluster", "slurm")
    paths = [project.root / f"sbatch.{n}" for n in range(1, 5)]
    sent = [dict(re.findall(OPTION, path.read_text(encoding="utf-8"))) for path in paths]
    dependencies = [script.pop("dependency", None) for script in sent]
    assert dependencies == [None, None, "afterany:1_0", "afterany:1_1"]
    for script in sent[2:]:
        assert script.pop("kill-on-invalid-dep") == "yes"
    assert [*shown, shown[-1]] == sent
    assert not (project.root / "sbatch.5").exists()


def test_preflight_checks_the_resources_of_every_kind(project):
    project.program("srun", "")
    project.program("sbatch", "echo Submitted batch job 1")
    project.recipe(kinds(**{"small/start": "Resources(gpus=12, minutes=1)"}))
    line = project.mistake("submit", "table1", "--cluster", "slurm")
    assert "12 processes do not fill nodes of 8" in line
    assert not (project.root / "runs").exists()


# --- this machine


def test_local_jobs_all_get_the_largest_resources(project):
    project.site("[local]\ngpus = 32\n")
    project.recipe(THREE_KINDS)
    plan = project.plan()
    packed = job_packing.pack_jobs(plan, "local")
    assert [(len(job.runs), job.resources.gpus) for job in packed] == [(3, 16), (3, 16)]
    runners = [
        submission._job_runner(plan, job, "local", i, token="t1") for i, job in enumerate(packed)
    ]
    devices = [str(number) for number in range(32)]
    assert [runner.gpus for runner in runners] == [tuple(devices[:16]), tuple(devices[16:])]
    assert [[r.gpus for r in runner.resources] for runner in runners] == [[16] * 3] * 2


def test_local_resources_ignore_finished_runs(project):
    project.site("[local]\ngpus = 32\n")
    project.recipe(THREE_KINDS)
    finish(project, 16)
    assert {size for _, size in jobs(project, "local")} == {4}
    assert len(jobs(project, "local")) == 4, "8 jobs fit, but only 4 runs are missing"


def test_largest_cpu_run_has_the_most_processes(project):
    project.site("[local]\nworkers = 6\n")
    three = "Resources(processes=3, minutes=1)"
    project.recipe(kinds(large=three).replace("gpus=2", "gpus=0"))
    packed = job_packing.pack_jobs(project.plan(), "local")
    assert [job.resources.processes for job in packed] == [3, 3]
    parameters = slurm_request.array_parameters(project.plan(), packed, [0, 1], "local")
    assert (parameters["nodes"], parameters["tasks_per_node"]) == (1, 3)


def test_gpu_runs_count_as_larger_than_cpu_runs(project):
    project.site("[local]\ngpus = 2\n")
    project.recipe(kinds(large="Resources(processes=8, minutes=1)"))
    assert {size for _, size in jobs(project, "local")} == {2}


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_preflight_refuses_a_machine_too_small_for_one_kind(project, cluster):
    project.site("[local]\ngpus = 4\n")
    project.recipe(THREE_KINDS)
    line = project.mistake("submit", "table1", "--cluster", cluster)
    assert "asks for 16 GPUs per run and this machine has 4" in line


def test_preflight_ignores_finished_runs(project):
    """The large runs were computed elsewhere; the missing ones fit on this machine."""
    project.site("[local]\ngpus = 2\n")
    project.recipe(THREE_KINDS)
    finish(project, 16, 4)
    preflight.check_submission(project.plan(), "local")


def runs_by_num_workers(project):
    """Map a number of data-loading workers to the runs that were computed with it."""
    text = (project.root / "computed.txt").read_text(encoding="utf-8")
    runs = {}
    for name, num_workers in re.findall(r"^(\S+) \w+ with (\d+) loaders", text, re.MULTILINE):
        runs.setdefault(int(num_workers), []).append(name)
    return runs


def test_foreground_run_and_its_need_have_their_own_resources(project):
    project.recipe(THREE_KINDS)
    project.compute("run", "table1", "--row", "small", "--arm", "DyT")
    assert runs_by_num_workers(project) == {3: ["start.DyT.0"], 9: ["small.DyT.0"]}
    text = (project.root / "computed.txt").read_text(encoding="utf-8")
    assert [", sharded" in line for line in text.splitlines()] == [True, False]


# --- machines without GPUs, and machines that take long

ON_EITHER = (
    "EITHER = Resources(gpus=1, cpus=4, minutes=2, cpu_minutes=600)\n"
    "SMOKE = replace(scale(small=SMALL, large=LARGE), resources=EITHER)\n"
    "TABLE = Table(arms=ARMS, scales=(SMOKE,))"
)


def asked(plan):
    (resources,) = {planned.resources for planned in plan.runs}
    return resources.gpus, resources.cpus, resources.minutes


def test_cpu_minutes_let_a_machine_without_gpus_compute(project, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    project.recipe(ON_EITHER)
    assert asked(project.plan().on_cluster("local")) == (0, 1, 600)
    assert asked(project.plan().on_cluster("slurm")) == (1, 4, 2)
    project.site("[local]\ngpus = 1\n")
    assert asked(project.plan().on_cluster("local")) == (1, 4, 2)


def test_runs_without_cpu_minutes_still_need_gpus(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(gpus=2, small=SMALL),))")
    assert asked(project.plan().on_cluster("local"))[0] == 2


def test_plan_prints_the_hours_that_this_machine_needs(project):
    project.recipe(ON_EITHER)
    project.site("[local]\nworkers = 3\n")
    # 8 runs of 10 hours, of which one worker has 3.
    assert "Expected: 30.0 h here, 3 runs at a time" in project.cli("plan", "table1")
    project.finish("small.LN.0")
    project.finish("small.DyT.0")
    assert "Expected: 20.0 h here, 3 runs at a time" in project.cli("plan", "table1")


@pytest.mark.parametrize(("workers", "hours"), [(1, "80"), (4, "")])
def test_submission_of_more_than_a_day_is_told_with_the_hours(project, workers, hours):
    project.recipe(ON_EITHER)
    project.site(f"[local]\nworkers = {workers}\n")
    plan = project.plan().on_cluster("local")
    note = job_packing.time_note(plan, job_packing.pack_jobs(plan, "local"), "local")
    assert bool(note) == bool(hours)
    if hours:
        assert note.startswith(
            f"table1 at smoke scale: 8 runs, 1 at a time, take about {hours} h here; `matched "
            "cancel table1 --scale smoke` stops them, and finished runs are kept."
        )
