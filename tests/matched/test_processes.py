"""Jobs whose runs have two processes each: what happens to the one when the other fails or dies.

They meet through torch, so that it has to be the real one, which takes seconds to load.
"""

import pytest

TWO_PROCESSES = (
    "RESOURCES = Resources(processes=2, minutes=1)\n"
    "TABLE = Table(arms=ARMS, scales=(replace(scale(seeds=(0,), small=SMALL, large=LARGE),"
    " resources=RESOURCES),))"
)
RUNS = ["small.LN.0", "small.DyT.0", "large.LN.0", "large.DyT.0"]


@pytest.fixture
def two(project):
    """One job of four runs, each of two processes."""
    project.meeting({"job_runner.FAILURE_TIMEOUT": 1.0, "peers.POLL_SECONDS": 1.0})
    project.recipe(TWO_PROCESSES)
    project.site("[local]\nworkers = 2\n[slurm]\ngrace_seconds = 1\n")
    return project


def why(project, name):
    path = project.directory(name) / "failure.json"
    return project.json(path)["reason"] if path.exists() else None


def test_a_run_that_fails_in_one_process_or_in_both_leaves_the_others_of_its_job_alone(two):
    two.trouble("rank 1 raises", "small.LN.0")
    two.trouble("meets", "small.DyT.0", "large.DyT.0")
    two.trouble("raise", "large.LN.0")
    told = two.compute("submit", "table1", "--wait", code=1)
    assert "4 of 4 runs submitted in 1 jobs" in told
    assert two.states() == dict(zip(RUNS, ["failed", "done", "failed", "done"], strict=True))
    assert why(two, "small.LN.0") == "the second process failed"
    assert "the tiny task was told to fail" in why(two, "large.LN.0")
    assert sorted(two.computed()) == sorted(2 * RUNS), "by both processes, once each"


@pytest.mark.slow  # three starts
def test_a_process_that_is_killed_or_never_comes_costs_a_start_of_the_job_and_no_other_run(two):
    """Nobody waits for ever for who is gone, and being left by the other is no failure."""
    two.trouble("rank 1 dies once", "small.LN.0")
    two.trouble("rank 1 raises early", "small.DyT.0")
    two.trouble("meets", "large.LN.0")
    two.compute("submit", "table1", "--wait", code=1)
    assert (two.root / "died").exists()
    assert two.states() == dict(zip(RUNS, ["done", "failed", "done", "done"], strict=True))
    assert why(two, "small.DyT.0") == "the second process never came"
    assert why(two, "small.LN.0") is None
    counts = [two.computed().count(name) for name in RUNS]
    assert counts == [4, 2, 2, 2], "only the run whose process was killed is begun again"
