"""How the missing runs of a table are spread over jobs, and what each job asks for."""

from itertools import chain

import pytest

from matched import Resources, launch, packing
from matched.site import Local, Site, Slurm

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
    jobs = packing.pack(project.plan(), cluster)
    return [
        ([f"{c.model}.{c.norm}.{c.seed}" for c in (i.run.config for i in job.items)], job.after)
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
    found = packing.pack(plan, "local")
    assert len(found) == jobs
    used = [launch._callable(plan, job, "local", i).gpus for i, job in enumerate(found)]
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
    order = [item.run.config.model for item in project.plan().items]
    assert order == ["start", "small", "start", "small", "large", "large"]


def test_runs_that_need_each_other_stay_in_one_local_job(project):
    project.site("[local]\nworkers = 4\n")
    project.recipe(SHARED.replace("@", "1"))
    assert packed(project, "local") == [
        (["start.LN.0", "small.LN.0", "large.LN.0"], ()),
        (["start.DyT.0", "small.DyT.0", "large.DyT.0"], ()),
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
    for item in project.plan().items:
        if item.run.config.model == "start":
            item.directory.prepare()
            item.directory.write_result({"outcome": "done", "metrics": {}})
    assert packed(project, "slurm") == [
        (["middle.LN.0"], ()),
        (["middle.DyT.0"], ()),
        (["small.LN.0"], (0,)),
        (["small.DyT.0"], (1,)),
    ]


# --- what a job asks for

PAPER = Resources(gpus=64, cpus=10, memory_gb=48, minutes=48 * 60)


def asked(resources=PAPER, runs=1, cluster="slurm", **slurm):
    site = Site(file="site.toml", slurm=Slurm(**slurm), local=Local())
    return launch.request(resources, site, cluster, runs)


def test_paper_scale_on_nodes_of_eight():
    assert asked() == {
        "name": "matched",
        "nodes": 8,
        "tasks_per_node": 8,
        "gpus_per_node": 8,
        "cpus_per_task": 10,
        "mem_gb": 8 * 48,
        "timeout_min": 24 * 60,
        "slurm_array_parallelism": 64,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
    }


def test_paper_scale_on_nodes_of_four():
    found = asked(gpus_per_node=4)
    assert (found["nodes"], found["tasks_per_node"], found["gpus_per_node"]) == (16, 4, 4)
    assert found["mem_gb"] == 4 * 48


@pytest.mark.parametrize(("gpus", "nodes"), [(1, 1), (4, 1), (8, 1), (16, 2)])
def test_small_runs_take_a_part_of_a_node(gpus, nodes):
    found = asked(Resources(gpus=gpus, minutes=60))
    assert (found["nodes"], found["nodes"] * found["gpus_per_node"]) == (nodes, gpus)


@pytest.mark.parametrize(("gpus", "per_node"), [(64, 7), (12, 8), (3, 2)])
def test_gpus_that_do_not_fill_nodes_are_refused(gpus, per_node):
    with pytest.raises(ValueError, match=rf"{gpus} .* do not fill nodes of {per_node}.*\[slurm\]"):
        asked(Resources(gpus=gpus, minutes=60), gpus_per_node=per_node)


def test_the_time_is_that_of_all_runs_up_to_the_limit():
    resources = Resources(minutes=10)
    assert asked(resources, runs=3)["timeout_min"] == 30
    assert asked(resources, runs=3000)["timeout_min"] == 24 * 60
    assert asked(max_hours=72)["timeout_min"] == 48 * 60
    assert asked(max_hours=2)["timeout_min"] == 120


def test_a_run_without_gpus_asks_for_none():
    found = asked(Resources(minutes=10, cpus=2, memory_gb=5))
    assert "gpus_per_node" not in found and "slurm_srun_args" not in found
    assert (found["nodes"], found["tasks_per_node"]) == (1, 1)
    assert (found["cpus_per_task"], found["mem_gb"]) == (2, 5)


def test_the_choices_of_the_site_are_passed_on():
    found = asked(
        partition="gpu",
        account="a1",
        qos="q",
        constraint="c",
        parallel=3,
        setup=("module load cuda",),
        options={"exclude": "node7"},
    )
    assert found["slurm_partition"] == "gpu"
    assert found["slurm_account"] == "a1"
    assert found["slurm_qos"] == "q"
    assert found["slurm_constraint"] == "c"
    assert found["slurm_array_parallelism"] == 3
    assert found["slurm_setup"] == ["module load cuda"]
    assert found["slurm_additional_parameters"] == {"exclude": "node7"}


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_this_machine_is_asked_for_processes_alone(cluster):
    found = asked(Resources(gpus=2, minutes=1), cluster=cluster, partition="gpu")
    assert (found["nodes"], found["tasks_per_node"]) == (1, 2)
    assert not [key for key in found if "slurm" in key]
