"""Jobs whose runs have two processes, of which one fails or is killed.

The processes communicate through the real torch, which takes seconds to load.
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
    """A job of four runs with two processes each."""
    project.meeting({"job_runner.FAILURE_TIMEOUT": 1.0, "peers.POLL_SECONDS": 1.0})
    project.recipe(TWO_PROCESSES)
    project.site("[local]\nworkers = 2\n[slurm]\ngrace_seconds = 1\n")
    return project


def failure_reason(project, name):
    path = project.directory(name) / "failure.json"
    return project.json(path)["reason"] if path.exists() else None


def test_failed_run_leaves_the_other_runs_of_its_job_alone(two):
    two.trouble("rank 1 raises", "small.LN.0")
    two.trouble("meets", "small.DyT.0", "large.DyT.0")
    two.trouble("raise", "large.LN.0")
    output = two.compute("submit", "table1", "--wait", code=1)
    assert "4 of 4 runs submitted in 1 job" in output
    assert two.states() == dict(zip(RUNS, ["failed", "done", "failed", "done"], strict=True))
    assert failure_reason(two, "small.LN.0") == "the second process failed"
    assert "the tiny task was told to fail" in failure_reason(two, "large.LN.0")
    assert sorted(two.computed()) == sorted(2 * RUNS), "each run once by both processes"


@pytest.mark.slow  # three starts
def test_killed_process_restarts_the_job_and_fails_no_run(two):
    """No process waits forever for a lost one, and losing one is not a failure of the run."""
    two.trouble("rank 1 dies once", "small.LN.0")
    two.trouble("rank 1 raises early", "small.DyT.0")
    two.trouble("meets", "large.LN.0")
    two.compute("submit", "table1", "--wait", code=1)
    assert (two.root / "died").exists()
    assert two.states() == dict(zip(RUNS, ["done", "failed", "done", "done"], strict=True))
    assert failure_reason(two, "small.DyT.0") == "the second process never came"
    assert failure_reason(two, "small.LN.0") is None
    counts = [two.computed().count(name) for name in RUNS]
    assert counts == [4, 2, 2, 2], "only the run whose process was killed starts again"
