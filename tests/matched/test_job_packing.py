"""How the missing runs of a table are spread over jobs, and these over arrays."""

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
    """Each job's runs as "<model>.<norm>.<seed>", and the jobs that it waits for."""
    jobs = job_packing.pack_jobs(project.plan(), cluster)
    return [
        ([f"{c.model}.{c.norm}.{c.seed}" for c in (i.run.config for i in job.runs)], job.after)
        for job in jobs
    ]


def only_runs(project, cluster):
    return [runs for runs, _ in packed(project, cluster)]


# --- packing


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_this_machine_has_one_job_per_worker(project, workers):
    project.site(f"[local]\nworkers = {workers}\n")
    jobs = only_runs(project, "local")
    assert len(jobs) == workers
    assert sorted(chain(*jobs)) == sorted(project.states())
    assert max(map(len, jobs)) - min(map(len, jobs)) <= 1, "evenly spread"


def test_there_are_no_empty_jobs(project):
    project.site("[local]\nworkers = 64\n")
    assert [len(job) for job in only_runs(project, "local")] == [1] * 8


def test_debug_is_one_job(project):
    project.site("[local]\nworkers = 4\n")
    assert len(packed(project, "debug")) == 1


@pytest.mark.parametrize(("gpus", "jobs"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_runs_on_gpus_share_those_of_the_machine(project, gpus, jobs):
    project.site("[local]\nworkers = 99\ngpus = 4\n")
    project.recipe(f"TABLE = Table(arms=ARMS, scales=(scale(gpus={gpus}, small=SMALL),))")
    plan = project.plan()
    found = job_packing.pack_jobs(plan, "local")
    assert len(found) == jobs
    used = [
        submission._callable(plan, job, "local", i, token="t1").gpus for i, job in enumerate(found)
    ]
    flat = list(chain(*used))
    assert len(flat) == len(set(flat)) == jobs * gpus, "no GPU is given to two jobs"
    assert set(flat) <= set(range(4))


def test_runs_of_several_processes_share_the_workers(project):
    project.site("[local]\nworkers = 5\n")
    project.recipe(
        "RESOURCES = Resources(processes=2, minutes=1)\n"
        "TABLE = Table(arms=ARMS, scales=(replace(scale(small=SMALL), resources=RESOURCES),))"
    )
    assert [len(job) for job in only_runs(project, "local")] == [2, 2]


@pytest.mark.parametrize(("per_job", "sizes"), [(1, [1] * 8), (3, [3, 3, 2]), (8, [8]), (99, [8])])
def test_slurm_jobs_hold_so_many_runs(project, per_job, sizes):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=("
        f"scale(runs_per_job={per_job}, small=SMALL, large=LARGE),))"
    )
    jobs = packed(project, "slurm")
    assert [len(runs) for runs, _ in jobs] == sizes
    assert all(after == () for _, after in jobs)
    assert list(chain(*(runs for runs, _ in jobs))) == list(project.states()), "in the plan's order"


def test_only_what_is_missing_is_packed(project):
    project.finish("small.LN.0", top1=1.0)
    project.finish("large.DyT.1", outcome="diverged")
    names = list(chain(*only_runs(project, "slurm")))
    assert len(names) == 6 and not {"small.LN.0", "large.DyT.1"} & set(names)


def test_nothing_missing_is_no_job(one_row):
    for name in list(one_row.states()):
        one_row.finish(name, top1=1.0)
    assert packed(one_row, "local") == packed(one_row, "slurm") == []


# --- needs


def test_a_prerequisite_comes_first_and_once(project):
    project.recipe(SHARED.replace("@", "1"))
    order = [planned.run.config.model for planned in project.plan().runs]
    assert order == ["start", "small", "start", "small", "large", "large"]


def test_runs_that_need_each_other_stay_in_one_local_job(project):
    project.site("[local]\nworkers = 2\n")
    project.recipe(SHARED.replace("@", "1"))
    assert packed(project, "local") == [
        (["start.LN.0", "small.LN.0", "large.LN.0"], ()),
        (["start.DyT.0", "small.DyT.0", "large.DyT.0"], ()),
    ]


def test_they_are_parted_where_workers_would_have_nothing_to_do(project):
    project.site("[local]\nworkers = 4\n")
    project.recipe(SHARED.replace("@", "1"))
    assert packed(project, "local") == [
        (["start.LN.0", "small.LN.0"], ()),
        (["start.DyT.0", "small.DyT.0"], ()),
        (["large.LN.0"], ()),
        (["large.DyT.0"], ()),
    ]


def test_they_stay_together_behind_a_shared_run_that_failed(project):
    """It comes last, in case it kills its process; so nothing else may stand behind it."""
    project.site("[local]\nworkers = 4\n")
    project.recipe(SHARED.replace("@", "1"))
    failed(project, "start.LN.0")
    assert packed(project, "local") == [
        (["start.DyT.0", "small.DyT.0", "large.DyT.0"], ()),
        (["start.LN.0", "small.LN.0", "large.LN.0"], ()),
    ]


def test_on_slurm_jobs_wait_for_the_jobs_of_what_they_need(project):
    project.recipe(SHARED.replace("@", "1"))
    assert packed(project, "slurm") == [
        (["start.LN.0"], ()),
        (["start.DyT.0"], ()),
        (["small.LN.0"], (0,)),
        (["small.DyT.0"], (1,)),
        (["large.LN.0"], (0,)),
        (["large.DyT.0"], (1,)),
    ]


def test_on_slurm_a_chain_waits_link_by_link(project):
    project.recipe(CHAIN.replace("@", "2"))
    assert packed(project, "slurm") == [
        (["start.LN.0", "start.DyT.0"], ()),
        (["middle.LN.0", "middle.DyT.0"], (0,)),
        (["small.LN.0", "small.DyT.0"], (1,)),
    ]


def test_a_chain_is_one_local_job_in_order(project):
    project.site("[local]\nworkers = 4\n")
    project.recipe(CHAIN.replace("@", "1"))
    assert only_runs(project, "local")[0] == ["start.LN.0", "middle.LN.0", "small.LN.0"]


def test_a_finished_prerequisite_is_not_waited_for(project):
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


# --- runs that failed before, runs that are at work


def failed(project, name):
    """As if the run had begun and then failed."""
    directory = project.directory(name)
    directory.prepare()
    write_progress(directory.path, 1, 10)
    directory.write_failure(Failure(reason="no memory"))


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_what_failed_before_comes_last(project, cluster):
    """It may kill its process again, and with it the turn of those behind it."""
    failed(project, "small.LN.0")
    failed(project, "large.LN.0")
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(runs_per_job=8, small=SMALL, large=LARGE),))"
    )
    (runs,) = only_runs(project, cluster)
    others = [name for name in project.states() if name not in ("small.LN.0", "large.LN.0")]
    assert runs == [*others, "small.LN.0", "large.LN.0"]


def test_what_failed_without_having_begun_keeps_its_place(project):
    """Its job was cancelled, or another run killed it."""
    directory = project.directory("small.LN.0")
    directory.prepare()
    directory.write_failure(Failure(reason="cancelled"))
    (runs,) = only_runs(project, "local")
    assert runs[0] == "small.LN.0"


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_prerequisite_that_failed_comes_last_but_before_what_needs_it(project, cluster):
    project.recipe(CHAIN.replace("@", "99"))
    for planned in project.plan().runs:
        if (planned.run.config.model, planned.run.config.norm) == ("middle", "LN"):
            planned.directory.prepare()
            write_progress(planned.directory.path, 1, 10)
            planned.directory.write_failure(Failure(reason="no memory"))
    runs = list(chain(*only_runs(project, cluster)))
    assert runs.index("middle.DyT.0") < runs.index("middle.LN.0") < runs.index("small.LN.0")


def test_what_a_job_of_an_earlier_submission_computes_is_waited_for(project):
    project.recipe(CHAIN.replace("@", "1"))
    for planned in project.plan().runs:
        if planned.run.config.model == "start":
            planned.directory.prepare()
            number = "41_0" if planned.run.config.norm == "LN" else "41_1"
            planned.directory.write_job(project.job("slurm", number))
    project.program("squeue", "echo '41_0|41|RUNNING|None'; echo '41_1|42|PENDING|Priority'")
    found = job_packing.pack_jobs(project.plan(), "slurm")
    assert [(job.after, job.behind) for job in found] == [
        ((), ("41_0",)),
        ((), ("41_1",)),
        ((0,), ()),
        ((1,), ()),
    ]
    assert job_packing.job_arrays(found, 1000) == [[0], [1], [2], [3]], "an array waits as a whole"


def test_what_this_machine_computes_is_no_dependency_of_slurm(project):
    project.recipe(CHAIN.replace("@", "1"))
    for planned in project.plan().runs:
        if planned.run.config.model == "start":
            planned.directory.prepare()
            planned.directory.write_job(project.job("local", str(os.getpid())))
    found = job_packing.pack_jobs(project.plan(), "slurm")
    assert len(found) == 4 and not any(job.behind for job in found)


# --- arrays


def job_arrays(project, largest):
    return job_packing.job_arrays(job_packing.pack_jobs(project.plan(), "slurm"), largest)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1000, [8]), (8, [8]), (7, [7, 1]), (3, [3, 3, 2]), (1, [1] * 8)]
)
def test_an_array_has_no_more_jobs_than_slurm_takes(project, largest, sizes):
    found = job_arrays(project, largest)
    assert [len(wave) for wave in found] == sizes
    assert list(chain(*found)) == list(range(8))


def test_jobs_of_one_array_wait_for_the_same_jobs(project):
    project.recipe(SHARED.replace("@", "1"))
    assert job_arrays(project, 1000) == [[0, 1], [2, 4], [3, 5]]
    assert job_arrays(project, 1) == [[0], [1], [2], [4], [3], [5]], (
        "a wave after what it waits for"
    )
