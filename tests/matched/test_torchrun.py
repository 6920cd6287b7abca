"""`matched run` under torchrun: all processes compute, and only rank 0 writes and prints."""

import pytest

from matched import cli_output

CELL = ["--row", "small", "--arm", "LN"]
WITH_NEEDS = """
FIRST = Run(task="tiny:train", config=Config(model="first"))
START = Run(task="tiny:train", config=Config(model="start"))
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"data": FIRST, "begin": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))
"""


@pytest.fixture
def start(one_row):
    """Start both processes, which communicate through the real torch."""
    one_row.meeting()

    def start():
        processes = []
        for rank in ("0", "1"):
            one_row.environment.update(WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank)
            processes.append(one_row.start("run", "table1", *CELL))
        return processes

    return start


def rank0_output(processes):
    """Return what rank 0 prints, after checking that all processes succeed."""
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[1][0] == "", "only rank 0 prints"
    return outputs[0][0]


def test_torchrun_skips_finished_runs_and_waits_for_rank_0_to_write(one_row, start):
    """All ranks go through the same runs: one would wait forever for a broadcast of the other.

    They wait for the result of each run, because the next run may need it.
    """
    one_row.recipe(WITH_NEEDS)
    one_row.trouble("rank 0 waits", "start.LN.0")
    first = next(planned for planned in one_row.plan().runs if _name(planned) == "first.LN.0")
    first.directory.prepare()
    first.directory.write_result({"outcome": "done", "metrics": {}})
    processes = start()
    one_row.wait_for(lambda: len(one_row.computed()) == 2, *processes)
    states = {_name(planned): str(planned.status.state) for planned in one_row.plan().runs}
    assert (states["start.LN.0"], states["small.LN.0"]) == ("running", "queued")
    (one_row.root / "go").touch()
    assert "done  top1 80" in rank0_output(processes)
    assert one_row.computed() == ["start.LN.0"] * 2 + ["small.LN.0"] * 2


@pytest.mark.slow  # imports torch twice
def test_torchrun_with_a_finished_cell_shows_it(one_row, start):
    one_row.finish("small.LN.0", top1=81.25)
    assert "done  top1 81.25" in rank0_output(start())
    assert one_row.computed() == []


def test_rank_0_meets_the_others_even_if_nothing_is_missing(one_row, monkeypatch):
    meetings = []
    monkeypatch.setattr(cli_output, "run_shown", lambda plan, console: meetings.append(plan))
    monkeypatch.setenv("WORLD_SIZE", "2")
    one_row.finish("small.LN.0", top1=81.25)
    assert "done  top1 81.25" in one_row.cli("run", "table1", *CELL)
    assert len(meetings) == 1


def _name(planned):
    return f"{planned.run.config.model}.{planned.run.config.norm}.{planned.run.config.seed}"
