"""slurm_summary: names of jobs, distinct requests, hours by stage, and the site's limits."""

import re

import pytest

from matched import slurm_request, slurm_summary
from matched.job_packing import pack_jobs

CHAIN = """
from chain import Encode, Sample, Score, Train
DATA = Run(task="chain:encode", config=Encode())
TRAINED = Run(task="chain:train", config=Train(), needs={"data": DATA})
SCORED = Run(task="chain:score", config=Score(), needs={"trained": TRAINED})
GPUS = Resources(gpus=8, cpus=2, minutes=60)
TABLE = Table(arms=ARMS, scales=(replace(
    scale(seeds=(0, 1), small=SCORED, large=SCORED),
    resources=replace(GPUS, minutes=30),
    resource_overrides={
        "small/trained": replace(GPUS, minutes=60 * 60), "small/trained/data": GPUS
    },
),))
"""
LARGE = """
TABLE = Table(arms=ARMS, scales=(scale(
    seeds=tuple(range(10)), gpus=1, minutes=120, small=SMALL
),))
"""


@pytest.fixture
def chain(project):
    project.recipe(CHAIN)
    return project


def packed(project):
    plan = project.plan()
    return plan, pack_jobs(plan, "slurm")


def test_job_name_is_table_stage_and_scale(chain):
    plan, jobs = packed(chain)
    names = {slurm_request.job_name(plan, [job]) for job in jobs}
    assert names == {"table1-encode-smoke", "table1-train-smoke", "table1-score-smoke"}
    (options,) = [
        slurm_request.array_parameters(plan, jobs, [i], "slurm")
        for i, job in enumerate(jobs)
        if slurm_request.stage_name([job]) == "encode"
    ]
    assert options["name"] == "table1-encode-smoke"
    assert "name" not in slurm_request.array_parameters(plan, jobs, [0], "local")
    after = slurm_request.array_parameters(plan, jobs, [0], "slurm", ["7", "8_1"])
    assert after["slurm_additional_parameters"] == {
        "requeue": True,
        "dependency": "afterany:7:8_1",
        "kill-on-invalid-dep": "yes",
    }


def test_time_limit_of_an_array_is_that_of_its_longest_job(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(runs_per_job=3, small=SMALL),))")
    plan, jobs = packed(project)
    assert [len(job.runs) for job in jobs] == [3, 1]
    (minutes,) = {planned.resources.minutes for planned in plan.runs}
    request = slurm_request.array_parameters(plan, jobs, [1, 0], "slurm")
    assert request["timeout_min"] == 3 * minutes


def test_stage_name_of_jobs_with_several_tasks(chain):
    _, jobs = packed(chain)
    assert slurm_request.stage_name(jobs) == "encode+train+score"


def test_distinct_requests_name_equal_requests_once(chain):
    plan, jobs = packed(chain)
    requests = slurm_summary.distinct_requests(plan, jobs)
    assert len({request.lines for request in requests}) == len(requests)
    assert sorted(i for request in requests for i in request.jobs) == list(range(len(jobs)))
    assert [request.name for request in requests] == [
        "table1-encode-smoke", "table1-train-smoke", "table1-score-smoke"
    ]  # fmt: skip
    *_, score = requests
    assert len(score.arrays) == 4, "each score job comes after another training"


def test_stages_sum_hours_of_gpus_and_cores(chain):
    stages = slurm_summary.stages(packed(chain)[1])
    assert [(s.name, s.runs, s.jobs, s.gpu_hours, s.core_hours) for s in stages] == [
        ("encode", 1, 1, 8.0, 16.0),
        ("train", 4, 4, 4 * 60 * 8, 4 * 60 * 16),
        ("score", 4, 4, 4 * 0.5 * 8, 4 * 0.5 * 16),
    ]
    assert slurm_summary.total(stages) == slurm_summary.Stage(
        name="table", runs=9, jobs=9, gpu_hours=1944.0, core_hours=3888.0
    )


def test_limit_notes_count_the_starts_of_jobs_above_max_hours(chain):
    plan, jobs = packed(chain)
    assert slurm_summary.limit_notes(plan, jobs) == [
        "max_hours = 24: 4 jobs of stage train take 60 h; each is requeued at the limit and "
        "resumes, in 3 starts"
    ]
    chain.site("[slurm]\nmax_hours = 72\n")
    assert slurm_summary.limit_notes(*packed(chain)) == []


def test_limit_notes_name_waiting_and_divided_arrays(project):
    project.recipe(LARGE)
    assert slurm_summary.limit_notes(*packed(project)) == []
    project.site("[slurm]\nparallel = 4\nmax_array = 10\n")
    assert slurm_summary.limit_notes(*packed(project)) == [
        "parallel = 4: of an array of 10 jobs 4 run at a time",
        "max_array = 10: 1 array of jobs is submitted as 2",
    ]


def test_limit_notes_in_the_singular_and_of_several_arrays(project):
    project.recipe(
        "LONG = replace(scale(seeds=(0,), gpus=1, minutes=1501, small=SMALL))\n"
        "TABLE = Table(arms=ARMS[:1], scales=(LONG,))"
    )
    plan, jobs = packed(project)
    assert slurm_summary.limit_notes(plan, jobs) == [
        "max_hours = 24: 1 job of stage train takes 25.0167 h; it is requeued at the limit and "
        "resumes, in 2 starts"
    ]
    project.recipe(
        "SEEDS = tuple(range(3))\n"
        "TABLE = Table(arms=ARMS, scales=(replace(scale(seeds=SEEDS, gpus=1, minutes=1440, "
        "small=SMALL, large=LARGE), resource_overrides={'large': Resources(gpus=2, minutes=9)}),))"
    )
    project.site("[slurm]\nparallel = 6\nmax_array = 4\n")
    assert slurm_summary.limit_notes(*packed(project)) == [
        "max_array = 4: 2 arrays of jobs are submitted as 4"
    ], "24 hours are within the limit, and 4 jobs are at most 6"


def test_hours_to_last_job_follow_needs_and_waves(chain):
    plan, jobs = packed(chain)
    assert slurm_summary.hours_to_last_job(jobs, plan.site.slurm) == 1 + 60 + 0.5
    chain.recipe(LARGE)
    chain.site("[slurm]\nparallel = 8\n")
    plan, jobs = packed(chain)
    assert slurm_summary.hours_to_last_job(jobs, plan.site.slurm) == 3 * 2
    assert slurm_summary.hours_to_last_job([], plan.site.slurm) == 0


def test_plan_prints_each_request_with_its_runs_and_hours(chain):
    output = chain.cli("plan", "table1", "--cluster", "slurm")
    assert output.count("Slurm is asked for") == 3
    assert "table1-encode-smoke: 1 job of 1 run:\n  for small · LN · seed 0 · trained · d" in output
    assert "table1-train-smoke: 4 jobs of 1 run, each after 1 other:\n" in output
    assert re.search(r"train +4 +4 +1,920\.0 *\n", output)
    assert re.search(r"table +9 +9 +1,944\.0 *\n", output)
    assert "Expected: 61.5 h" in output
    assert f"Limit in {chain.root}/site.toml: max_hours = 24: 4 jobs" in output


def test_plan_of_cpu_runs_prints_core_hours(project):
    output = project.cli("plan", "table1", "--cluster", "slurm")
    assert "core-hours" in output and "GPU-hours" not in output


def test_plan_of_many_runs_names_the_first(project):
    project.recipe(LARGE)
    output = project.cli("plan", "table1", "--cluster", "slurm")
    assert "small · LN · seed 1; small · DyT · seed 1;" in output and "; and 12 more\n" in output
