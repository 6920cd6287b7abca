"""pack_jobs and job_arrays: missing runs spread over jobs, and jobs over Slurm arrays."""

import os
from itertools import chain

import pytest

from matched import job_packing, submission
from matched.status import Failure
from matched.task import write_progress

NEEDS = """
START = Run(task="tiny:train", config=Config(model="start"))


def tuned(model, *needs):
    return Run(task="tiny:train", config=Config(model=model), needs=dict(needs))


"""
SHARED = NEEDS + (
    "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), runs_per_job=@,"
    " small=tuned('small', ('start', START)), large=tuned('large', ('start', START))),))"
)
CHAIN = NEEDS + (
    "MIDDLE = tuned('middle', ('start', START))\n"
    "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), runs_per_job=@,"
    " small=tuned('small', ('middle', MIDDLE))),))"
)


def packed(project, cluster):
    """Return each job's runs as "<model>.<norm>.<seed>", and the positions of its dependencies."""
    jobs = job_packing.pack_jobs(project.plan(), cluster)
    return [
        ([f"{c.model}.{c.norm}.{c.seed}" for c in (i.run.config for i in job.runs)], job.after)
        for job in jobs
    ]


def only_runs(project, cluster):
    return [runs for runs, _ in packed(project, cluster)]


# --- packing


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_pack_jobs_makes_one_local_job_per_worker(project, workers):
    project.site(f"[local]\nworkers = {workers}\n")
    jobs = only_runs(project, "local")
    assert len(jobs) == workers
    assert sorted(chain(*jobs)) == sorted(project.states())
    assert max(map(len, jobs)) - min(map(len, jobs)) <= 1, "spread evenly"


def test_pack_jobs_makes_no_empty_jobs(project):
    project.site("[local]\nworkers = 64\n")
    assert [len(job) for job in only_runs(project, "local")] == [1] * 8


def test_pack_jobs_makes_one_debug_job(project):
    project.site("[local]\nworkers = 4\n")
    assert len(packed(project, "debug")) == 1


@pytest.mark.parametrize(("gpus", "jobs"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_local_jobs_get_distinct_gpus(project, monkeypatch, gpus, jobs):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    project.site("[local]\nworkers = 99\ngpus = 4\n")
    project.recipe(f"TABLE = Table(arms=ARMS, scales=(scale(gpus={gpus}, small=SMALL),))")
    plan = project.plan()
    packed_jobs = job_packing.pack_jobs(plan, "local")
    assert len(packed_jobs) == jobs
    gpus_of_jobs = [
        submission._job_runner(plan, job, "local", i, token="t1").gpus
        for i, job in enumerate(packed_jobs)
    ]
    flat = list(chain(*gpus_of_jobs))
    assert len(flat) == len(set(flat)) == jobs * gpus, "no GPU belongs to two jobs"
    assert set(flat) <= set("0123")


@pytest.mark.parametrize(
    ("visible", "gpus_of_jobs"),
    [
        ("5,7,GPU-8a2f", [("5",), ("7",), ("GPU-8a2f",)]),
        (" 3, 2 ,1, 0,9", [("3",), ("2",), ("1",), ("0",)]),
        ("6,-1,7", [("6",)]),
    ],
)
def test_local_jobs_keep_to_cuda_visible_devices(project, monkeypatch, visible, gpus_of_jobs):
    """Indices are those of the caller's list, of which site.toml allows the first four."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    project.site("[local]\ngpus = 4\n")
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(gpus=1, small=SMALL, large=SMALL),))")
    plan = project.plan()
    packed_jobs = job_packing.pack_jobs(plan, "local")
    runners = [
        submission._job_runner(plan, job, "local", i, token="t1")
        for i, job in enumerate(packed_jobs)
    ]
    assert [runner.gpus for runner in runners] == gpus_of_jobs


def test_runs_of_several_processes_share_the_workers(project):
    project.site("[local]\nworkers = 5\n")
    project.recipe(
        "RESOURCES = Resources(processes=2, minutes=1)\n"
        "TABLE = Table(arms=ARMS, scales=(replace(scale(small=SMALL), resources=RESOURCES),))"
    )
    assert [len(job) for job in only_runs(project, "local")] == [2, 2]


@pytest.mark.parametrize(("per_job", "sizes"), [(1, [1] * 8), (3, [3, 3, 2]), (8, [8]), (99, [8])])
def test_slurm_jobs_have_runs_per_job_runs(project, per_job, sizes):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=("
        f"scale(runs_per_job={per_job}, small=SMALL, large=LARGE),))"
    )
    jobs = packed(project, "slurm")
    assert [len(runs) for runs, _ in jobs] == sizes
    assert all(after == () for _, after in jobs)
    assert list(chain(*(runs for runs, _ in jobs))) == list(project.states()), "in the plan's order"


def test_pack_jobs_skips_finished_runs(project):
    project.finish("small.LN.0", top1=1.0)
    project.finish("large.DyT.1", outcome="diverged")
    names = list(chain(*only_runs(project, "slurm")))
    assert len(names) == 6 and not {"small.LN.0", "large.DyT.1"} & set(names)


def test_pack_jobs_without_missing_runs_makes_no_job(one_row):
    for name in list(one_row.states()):
        one_row.finish(name, top1=1.0)
    assert packed(one_row, "local") == packed(one_row, "slurm") == []


# --- needs


def test_plan_has_each_prerequisite_first_and_once(project):
    project.recipe(SHARED.replace("@", "1"))
    order = [planned.run.config.model for planned in project.plan().runs]
    assert order == ["start", "small", "start", "small", "large", "large"]


def test_runs_with_a_shared_need_are_one_local_job(project):
    project.site("[local]\nworkers = 2\n")
    project.recipe(SHARED.replace("@", "1"))
    assert packed(project, "local") == [
        (["start.LN.0", "small.LN.0", "large.LN.0"], ()),
        (["start.DyT.0", "small.DyT.0", "large.DyT.0"], ()),
    ]


def test_runs_with_a_shared_need_stay_together_without_idle_workers(project):
    project.site("[local]\nworkers = 2\n")
    project.recipe("ARMS += (Arm(name='own', norm='own'),)\n" + SHARED.replace("@", "1"))
    ln, dyt, own = ([f"{model}.{norm}.0" for model in ("start", "small", "large")]
                    for norm in ("LN", "DyT", "own"))  # fmt: skip
    assert only_runs(project, "local") == [[*ln, *own], dyt]


def test_runs_with_a_shared_need_split_for_idle_workers(project):
    project.site("[local]\nworkers = 4\n")
    project.recipe(SHARED.replace("@", "1"))
    assert packed(project, "local") == [
        (["start.LN.0", "small.LN.0"], ()),
        (["start.DyT.0", "small.DyT.0"], ()),
        (["large.LN.0"], ()),
        (["large.DyT.0"], ()),
    ]


def test_shared_needs_with_a_shared_need_split_for_idle_workers(project):
    project.site("[local]\nworkers = 4\n")
    project.recipe(
        NEEDS + "TWO = [(name, tuned(name, ('start', START))) for name in 'ab']\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,),"
        " small=tuned('small', *TWO), large=tuned('large', *TWO)),))"
    )
    assert only_runs(project, "local") == [
        ["start.LN.0", "a.LN.0", "small.LN.0"],
        ["start.DyT.0", "b.LN.0", "small.DyT.0"],
        ["a.DyT.0", "large.LN.0"],
        ["b.DyT.0", "large.DyT.0"],
    ]


def test_runs_whose_shared_need_failed_stay_together(project):
    """The failed run comes last, in case it kills its process; only its dependents follow it."""
    project.site("[local]\nworkers = 4\n")
    project.recipe(SHARED.replace("@", "1"))
    fail(project, "start.LN.0")
    assert packed(project, "local") == [
        (["start.DyT.0", "small.DyT.0", "large.DyT.0"], ()),
        (["start.LN.0", "small.LN.0", "large.LN.0"], ()),
    ]


def test_slurm_jobs_depend_on_the_jobs_of_their_needs(project):
    project.recipe(SHARED.replace("@", "1"))
    assert packed(project, "slurm") == [
        (["start.LN.0"], ()),
        (["start.DyT.0"], ()),
        (["small.LN.0"], (0,)),
        (["small.DyT.0"], (1,)),
        (["large.LN.0"], (0,)),
        (["large.DyT.0"], (1,)),
    ]


def test_slurm_jobs_of_a_chain_depend_on_each_other(project):
    project.recipe(CHAIN.replace("@", "2"))
    assert packed(project, "slurm") == [
        (["start.LN.0", "start.DyT.0"], ()),
        (["middle.LN.0", "middle.DyT.0"], (0,)),
        (["small.LN.0", "small.DyT.0"], (1,)),
    ]


def test_slurm_job_depends_on_the_needs_of_all_its_runs(project):
    own_job = "dict.fromkeys(('small/start', 'large/start'), Resources(minutes=5))"
    shared = SHARED.replace("@", "4").replace("scales=(scale(", "scales=(replace(scale(")
    project.recipe(shared.replace("),))", f"), resource_overrides={own_job}),))"))
    assert packed(project, "slurm") == [
        (["start.LN.0"], ()),
        (["start.DyT.0"], ()),
        (["small.LN.0", "small.DyT.0", "large.LN.0", "large.DyT.0"], (0, 1)),
    ]


def test_a_chain_is_one_local_job_in_order(project):
    project.site("[local]\nworkers = 4\n")
    project.recipe(CHAIN.replace("@", "1"))
    assert only_runs(project, "local")[0] == ["start.LN.0", "middle.LN.0", "small.LN.0"]


def test_a_need_of_one_run_stays_in_its_job(project):
    project.site("[local]\nworkers = 5\n")
    project.recipe(
        NEEDS + "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL,"
        " large=tuned('large', ('start', START))),))"
    )
    assert only_runs(project, "local") == [
        ["small.LN.0"],
        ["small.DyT.0"],
        ["start.LN.0", "large.LN.0"],
        ["start.DyT.0", "large.DyT.0"],
    ]


def test_slurm_jobs_do_not_depend_on_finished_runs(project):
    project.recipe(CHAIN.replace("@", "1"))
    for planned in project.plan().runs:
        if planned.run.config.model == "start":
            planned.directory.prepare()
            planned.directory.write_result({"outcome": "done", "metrics": {}})
    assert packed(project, "slurm") == [
        (["middle.LN.0"], ()),
        (["middle.DyT.0"], ()),
        (["small.LN.0"], (0,)),
        (["small.DyT.0"], (1,)),
    ]


# --- runs that failed before, and runs of earlier submissions


def fail(project, name):
    """Write the files of a run that started and then failed."""
    directory = project.directory(name)
    directory.prepare()
    write_progress(directory.path, 1, 10)
    directory.write_failure(Failure(reason="no memory"))


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_runs_that_failed_before_come_last(project, cluster):
    """They may kill their process again, which would prevent the runs after them."""
    fail(project, "small.LN.0")
    fail(project, "large.LN.0")
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(runs_per_job=8, small=SMALL, large=LARGE),))"
    )
    (runs,) = only_runs(project, cluster)
    new = [name for name in project.states() if name not in ("small.LN.0", "large.LN.0")]
    assert runs == [*new, "small.LN.0", "large.LN.0"]


def test_runs_that_failed_without_starting_keep_their_place(project):
    """Their job was cancelled, or another run killed it."""
    directory = project.directory("small.LN.0")
    directory.prepare()
    directory.write_failure(Failure(reason="cancelled"))
    (runs,) = only_runs(project, "local")
    assert runs[0] == "small.LN.0"


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_failed_prerequisite_comes_just_before_its_dependents(project, cluster):
    project.recipe(CHAIN.replace("@", "99"))
    for planned in project.plan().runs:
        if (planned.run.config.model, planned.run.config.norm) == ("middle", "LN"):
            planned.directory.prepare()
            write_progress(planned.directory.path, 1, 10)
            planned.directory.write_failure(Failure(reason="no memory"))
    runs = list(chain(*only_runs(project, cluster)))
    assert runs.index("middle.DyT.0") < runs.index("middle.LN.0") < runs.index("small.LN.0")


def test_slurm_jobs_depend_on_jobs_of_earlier_submissions(project):
    project.recipe(CHAIN.replace("@", "1"))
    for planned in project.plan().runs:
        if planned.run.config.model == "start":
            planned.directory.prepare()
            number = "41_0" if planned.run.config.norm == "LN" else "41_1"
            planned.directory.write_job(project.job("slurm", number))
    project.program("squeue", "echo '41_0|41|RUNNING|None'; echo '41_1|42|PENDING|Priority'")
    packed_jobs = job_packing.pack_jobs(project.plan(), "slurm")
    assert [(job.after, job.after_ids) for job in packed_jobs] == [
        ((), ("41_0",)),
        ((), ("41_1",)),
        ((0,), ()),
        ((1,), ()),
    ]
    assert job_packing.job_arrays(packed_jobs, 1000) == [[0], [1], [2], [3]], "equal dependencies"


def test_slurm_jobs_do_not_depend_on_local_jobs(project):
    project.recipe(CHAIN.replace("@", "1"))
    for planned in project.plan().runs:
        if planned.run.config.model == "start":
            planned.directory.prepare()
            planned.directory.write_job(project.job("local", str(os.getpid())))
    packed_jobs = job_packing.pack_jobs(project.plan(), "slurm")
    assert len(packed_jobs) == 4 and not any(job.after_ids for job in packed_jobs)


# --- arrays


def job_arrays(project, max_size):
    return job_packing.job_arrays(job_packing.pack_jobs(project.plan(), "slurm"), max_size)


@pytest.mark.parametrize(
    ("max_size", "sizes"), [(1000, [8]), (8, [8]), (7, [7, 1]), (3, [3, 3, 2]), (1, [1] * 8)]
)
def test_job_arrays_have_at_most_max_size_jobs(project, max_size, sizes):
    arrays = job_arrays(project, max_size)
    assert [len(array) for array in arrays] == sizes
    assert list(chain(*arrays)) == list(range(8))


def test_jobs_of_one_array_have_the_same_dependencies(project):
    project.recipe(SHARED.replace("@", "1"))
    assert job_arrays(project, 1000) == [[0, 1], [2, 4], [3, 5]]
    assert job_arrays(project, 1) == [[0], [1], [2], [4], [3], [5]], (
        "an array comes after its dependencies"
    )
