"""Runs of one table that ask for different things: which share a job, and what it asks for."""

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


def kinds(**others):
    """Row small, which needs START, and row large; ``others`` by place."""
    return KINDS.format(
        resource_overrides=", ".join(f"'{key}': {value}" for key, value in others.items())
    )


THREE_KINDS = kinds(**{"small/start": BIG, "large": WIDE})


def gpus(project):
    """ "<model>.<norm>" → the GPUs that the run asks for."""
    configs = ((planned.run.config, planned.resources) for planned in project.plan().runs)
    return {f"{config.model}.{config.norm}": resources.gpus for config, resources in configs}


def finish(project, *sizes):
    """As if the runs that ask for so many GPUs had finished."""
    for planned in project.plan().runs:
        if planned.resources.gpus in sizes:
            planned.directory.prepare()
            planned.directory.write_result({"outcome": "done", "metrics": {}})


def jobs(project, cluster):
    found = job_packing.pack_jobs(project.plan(), cluster)
    return [
        ([f"{i.run.config.model}.{i.run.config.norm}" for i in job.runs], job.resources.gpus)
        for job in found
    ]


# --- whose they are


def test_all_runs_ask_for_the_same_unless_told_otherwise(project):
    project.recipe(kinds())
    assert set(gpus(project).values()) == {2}


def test_a_rows_own_runs_and_what_they_need_may_ask_for_something_else(project):
    project.recipe(THREE_KINDS)
    assert gpus(project) == {
        "start.LN": 16,
        "small.LN": 2,
        "large.LN": 4,
        "start.DyT": 16,
        "small.DyT": 2,
        "large.DyT": 4,
    }


def test_a_row_that_is_named_does_not_speak_for_what_it_needs(project):
    project.recipe(kinds(small=WIDE))
    assert (gpus(project)["small.LN"], gpus(project)["start.LN"]) == (4, 2)


def test_a_need_of_a_need_has_a_place_too(project):
    recipe = kinds(**{"large/middle/start": BIG}).replace(
        "SCALE =",
        "MIDDLE = Run(task='tiny:train', config=Config(model='middle'), needs={'start': START})\n"
        "LARGE = Run(task='tiny:train', config=LARGE.config, needs={'middle': MIDDLE})\n"
        "SCALE =",
    )
    project.recipe(recipe)
    found = gpus(project)
    assert [found[f"{model}.LN"] for model in ("start", "middle", "large")] == [16, 2, 2]


def test_of_several_rows_the_first_that_names_a_run_decides(project):
    """Also for a plan of one cell that is not of that row: what a run asks for is the run's."""
    shared = "SCALE = scale(seeds=(0,), gpus=2, small=TOP, large=replace(TOP, config=LARGE.config))"
    recipe = kinds(**{"large/start": WIDE, "small/start": BIG})
    project.recipe(re.sub("SCALE = .*", shared, recipe))
    assert gpus(project)["start.LN"] == 16
    project.recipe(re.sub("SCALE = .*", shared, kinds(**{"large/start": WIDE})))
    assert gpus(project)["start.LN"] == 4, "the first row does not name it"
    told = project.compute("run", "table1", "--row", "small", "--arm", "LN")
    assert "done  top1" in told
    assert "start.LN.0" in with_loaders(project)[9], "10 cores less one, as for the other row"


@pytest.mark.parametrize("place", ["smal", "small/begin", "start", "large/start", "small/"])
def test_a_place_that_is_none_is_refused(project, place):
    project.recipe(kinds(**{place: WIDE}))
    line = project.mistake("plan", "table1")
    assert (
        f"scale smoke: resource_overrides names {place}, which is neither a row nor a run "
        "that a row needs" in line
    )
    assert line.endswith("known are small/start, small, large")


def test_what_one_arm_of_a_row_needs_is_a_place():
    config = TrainConfig(epochs=1, batch=1, micro_batch=1, lr=0.1)
    start = Run(task="tiny:train", config=config)
    top = Run(task="tiny:train", config=config, needs={"start": start})
    resources = Resources(minutes=1)
    more = {"name": "smoke", "seeds": (0,), "resources": resources}
    runs = {"row": {"LN": start, "DyT": top}}
    assert Scale(runs=runs, resource_overrides={"row/start": resources}, **more).resource_overrides
    with pytest.raises(
        ValueError, match=r"resource_overrides names row/stop, .*known are row, row/start$"
    ):
        Scale(runs=runs, resource_overrides={"row/stop": resources}, **more)


# --- Slurm


def test_runs_share_a_slurm_job_with_their_like_only(project):
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


def test_an_array_holds_jobs_of_one_kind(project):
    project.recipe(THREE_KINDS.replace("runs_per_job=2", "runs_per_job=1"))
    packed = job_packing.pack_jobs(project.plan(), "slurm")
    assert job_packing.job_arrays(packed, 1000) == [[0, 1], [2, 3], [4], [5]]
    assert [job.resources.gpus for job in packed] == [16, 16, 4, 4, 2, 2]


def test_a_slurm_job_is_given_what_its_runs_ask_for(project):
    project.recipe(THREE_KINDS)
    plan = project.plan()
    packs = [
        submission._job_runner(plan, job, "slurm", i, token="t1")
        for i, job in enumerate(job_packing.pack_jobs(plan, "slurm"))
    ]
    assert [pack.threads for pack in packs] == [4, 4, 10, 10, 10]
    assert [[r.num_workers for r in pack.resources] for pack in packs] == [
        [3],
        [3],
        [9, 9],
        [9],
        [9],
    ]
    assert [pack.resources[0].shard for pack in packs] == [True, True, False, False, False]


OPTION = r"#SBATCH --([\w-]+)=?(.*)"
SBATCH = """
n=1; while [ -e "$HOME/sbatch.$n" ]; do n=$((n + 1)); done
for script; do :; done
cat "$script" > "$HOME/sbatch.$n"
echo "Submitted batch job $n"
"""
ASKED = ("nodes", "gpus-per-node", "cpus-per-task", "mem", "time")


def test_sbatch_is_asked_for_what_each_kind_of_run_needs_and_the_plan_shows_it(project):
    project.recipe(THREE_KINDS)
    project.program("srun", "")
    project.program("squeue", "")
    project.program("sbatch", SBATCH)
    told = project.cli("plan", "table1", "--cluster", "slurm")
    shown = [dict(re.findall(OPTION, part)) for part in told.split("Slurm is asked for")[1:]]
    assert [tuple(script[key] for key in ASKED) for script in shown] == [
        ("2", "8", "4", "80GB", "60"),
        ("1", "4", "10", "192GB", "60"),
        ("1", "2", "10", "96GB", "30"),
        ("1", "2", "10", "96GB", "30"),
    ]
    assert [script.get("array") for script in shown] == ["0-1%2", None, None, None]
    project.cli("submit", "table1", "--cluster", "slurm")
    paths = [project.root / f"sbatch.{n}" for n in range(1, 5)]
    sent = [dict(re.findall(OPTION, path.read_text(encoding="utf-8"))) for path in paths]
    waits = [script.pop("dependency", None) for script in sent]
    assert waits == [None, None, "afterany:1_0", "afterany:1_1"]
    for script in sent[2:]:
        assert script.pop("kill-on-invalid-dep") == "yes"
    assert shown == sent
    assert not (project.root / "sbatch.5").exists()


def test_every_kind_of_run_is_checked_before_anything_is_submitted(project):
    project.program("srun", "")
    project.program("sbatch", "echo Submitted batch job 1")
    project.recipe(kinds(**{"small/start": "Resources(gpus=12, minutes=1)"}))
    line = project.mistake("submit", "table1", "--cluster", "slurm")
    assert "12 processes do not fill nodes of 8" in line
    assert not (project.root / "runs").exists()


# --- this machine


def test_here_all_runs_are_given_what_the_largest_asks_for(project):
    project.site("[local]\ngpus = 32\n")
    project.recipe(THREE_KINDS)
    plan = project.plan()
    packed = job_packing.pack_jobs(plan, "local")
    assert [(len(job.runs), job.resources.gpus) for job in packed] == [(3, 16), (3, 16)]
    packs = [
        submission._job_runner(plan, job, "local", i, token="t1") for i, job in enumerate(packed)
    ]
    assert [pack.gpus for pack in packs] == [tuple(range(16)), tuple(range(16, 32))]
    assert [[r.gpus for r in pack.resources] for pack in packs] == [[16] * 3] * 2


def test_the_largest_is_looked_for_among_what_is_missing(project):
    project.site("[local]\ngpus = 32\n")
    project.recipe(THREE_KINDS)
    finish(project, 16)
    assert {size for _, size in jobs(project, "local")} == {4}
    assert len(jobs(project, "local")) == 4, "8 fit, and 4 runs are left"


def test_on_the_cpu_the_largest_has_the_most_processes(project):
    project.site("[local]\nworkers = 6\n")
    three = "Resources(processes=3, minutes=1)"
    project.recipe(kinds(large=three).replace("gpus=2", "gpus=0"))
    packed = job_packing.pack_jobs(project.plan(), "local")
    assert [job.resources.processes for job in packed] == [3, 3]
    asked = slurm_request.array_parameters(packed, [0, 1], project.plan().site, "local")
    assert (asked["nodes"], asked["tasks_per_node"]) == (1, 3)


def test_a_run_on_gpus_is_not_sent_to_the_cpu_for_one_of_more_processes(project):
    project.site("[local]\ngpus = 2\n")
    project.recipe(kinds(large="Resources(processes=8, minutes=1)"))
    assert {size for _, size in jobs(project, "local")} == {2}


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_a_machine_too_small_for_one_kind_is_refused(project, cluster):
    project.site("[local]\ngpus = 4\n")
    project.recipe(THREE_KINDS)
    line = project.mistake("submit", "table1", "--cluster", cluster)
    assert "asks for 16 GPUs per run and this machine has 4" in line


def test_what_is_finished_asks_for_nothing(project):
    """The large runs were computed elsewhere, and the rest fits here."""
    project.site("[local]\ngpus = 2\n")
    project.recipe(THREE_KINDS)
    finish(project, 16, 4)
    preflight.check_submission(project.plan(), "local")


def with_loaders(project):
    """Data-loading workers → the runs that were computed with so many."""
    text = (project.root / "computed.txt").read_text(encoding="utf-8")
    found = {}
    for name, num_workers in re.findall(r"^(\S+) \w+ with (\d+) loaders", text, re.MULTILINE):
        found.setdefault(int(num_workers), []).append(name)
    return found


def test_a_run_in_the_foreground_and_what_it_needs_have_their_own(project):
    project.recipe(THREE_KINDS)
    project.compute("run", "table1", "--row", "small", "--arm", "DyT")
    assert with_loaders(project) == {3: ["start.DyT.0"], 9: ["small.DyT.0"]}
    text = (project.root / "computed.txt").read_text(encoding="utf-8")
    assert [", sharded" in line for line in text.splitlines()] == [True, False]
