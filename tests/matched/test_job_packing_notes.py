"""Notes of job_packing on this machine: its memory, hours, runs of a minute, and places."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from matched import Resources, job_packing, machine
from matched.job_packing import PackedJob, hours_here, memory_note, short_runs_note, time_note
from matched.site import Local


def planned(minutes=1, **resources):
    return SimpleNamespace(resources=Resources(minutes=minutes, **resources))


def local_plan(missing, **local):
    site = SimpleNamespace(local=Local(**local), file=Path("site.toml"))
    recipe = SimpleNamespace(name="table1", arguments=lambda scale: f"table1 --scale {scale.name}")
    scale = SimpleNamespace(name="mini")
    return SimpleNamespace(missing=missing, site=site, recipe=recipe, scale=scale)


def jobs_of(*jobs):
    return [PackedJob(runs=runs, resources=runs[0].resources) for runs in jobs]


@pytest.mark.parametrize(
    ("gigabytes", "resources", "local", "note"),
    [
        (
            100,
            {"memory_gb": 24, "processes": 2},
            {},
            "2 instead of 4 runs at a time: each asks for 48 GB and this container has 100.0 GB; "
            "`workers` under [local] in site.toml sets another number",
        ),
        (
            20,
            {"memory_gb": 24, "gpus": 1},
            {"gpus": 3},
            "1 instead of 3 runs at a time: each asks for 24 GB and this container has 20.0 GB; "
            "`workers` under [local] in site.toml lifts this limit",
        ),
        (200, {"memory_gb": 50}, {}, "4 instead of 5 runs at a time: each asks for 50 GB and this "
         "container has 200.0 GB; `workers` under [local] in site.toml sets another number"),
        (200, {"memory_gb": 40}, {}, ""),  # as many as there are runs
        (20, {"memory_gb": 24}, {"workers": 9}, ""),
        (None, {"memory_gb": 24}, {}, ""),
    ],
    ids=["processes", "GPUs", "one too many", "all fit", "number of the user", "no limit"],
)  # fmt: skip
def test_memory_note_names_both_numbers_and_the_setting(
    monkeypatch, gigabytes, resources, local, note
):
    """5 runs on 8 cores."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "memory_limit", lambda: gigabytes and gigabytes << 30)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    runs = [planned(**resources)] * 5
    plan = local_plan(runs, **local)
    assert memory_note(plan, jobs_of(runs), "local") == note
    assert memory_note(plan, jobs_of(runs), "debug") == ""
    assert memory_note(plan, [], "local") == ""


def test_hours_here_are_those_of_the_longest_job():
    assert hours_here([]) == 0
    assert hours_here(jobs_of([planned(90)], [planned(60), planned(15)])) == 1.5
    assert hours_here(jobs_of([planned(90)], [planned(60), planned(45)])) == 1.75


def test_short_runs_note_if_any_missing_run_takes_a_minute():
    note = "; runs of seconds count as a minute"
    long, short = local_plan([planned(2), planned(3)]), local_plan([planned(2), planned(1)])
    assert short_runs_note(long) == short_runs_note(local_plan([])) == short_runs_note() == ""
    assert short_runs_note(short) == short_runs_note(long, short) == note


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_time_note_above_a_day(cluster):
    runs = [planned(50 * 60), planned(1000 * 60), planned(200 * 60)]
    plan, jobs = local_plan(runs), jobs_of(runs[:1], runs[1:])
    assert time_note(plan, jobs, cluster) == (
        "table1 at mini scale: 3 runs, 2 at a time, take about 1,200 h here; `matched cancel "
        "table1 --scale mini` stops them, and finished runs are kept. Faster are `gpus` or "
        "`workers` under [local] in site.toml, and --cluster slurm"
    )
    assert time_note(plan, jobs, "slurm") == ""
    day = [planned(24 * 60)]
    assert time_note(local_plan(day), jobs_of(day), cluster) == ""


@pytest.mark.parametrize(
    ("resources", "local", "workers"),
    [
        ({"processes": 3}, {}, 2),
        ({"processes": 9}, {}, 1),
        ({"processes": 3}, {"workers": 7}, 2),
        ({"gpus": 2}, {"gpus": 5}, 2),
        ({"gpus": 8}, {"gpus": 5}, 1),
    ],
    ids=str,
)
def test_machine_computes_at_least_one_job_at_a_time(monkeypatch, resources, local, workers):
    """8 cores; a run of more processes, or GPUs, is packed and then refused or slow."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    site = local_plan([], **local).site
    wanted = Resources(minutes=1, **resources)
    assert job_packing._num_workers(wanted, site, "local") == workers
    assert job_packing._num_workers(wanted, site, "debug") == 1
