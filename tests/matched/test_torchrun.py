"""`matched run` under torchrun: all processes compute, and only rank 0 writes and prints."""

import pytest

CELL = ["--row", "small", "--arm", "LN"]
WITH_NEED = """
START = Run(task="tiny:train", config=Config(model="start"))
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})
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


def test_torchrun_ranks_wait_for_rank_0_to_write_the_result(one_row, start):
    """The next run needs that result."""
    one_row.recipe(WITH_NEED)
    one_row.trouble("rank 0 waits", "start.LN.0")
    processes = start()
    one_row.wait_for(lambda: len(one_row.computed()) == 2, *processes)
    states = {_name(planned): str(planned.status.state) for planned in one_row.plan().runs}
    assert (states["start.LN.0"], states["small.LN.0"]) == ("running", "queued")
    (one_row.root / "go").touch()
    assert "done  top1 80" in rank0_output(processes)
    assert one_row.computed() == ["start.LN.0"] * 2 + ["small.LN.0"] * 2


def test_torchrun_skips_finished_runs_on_all_ranks(one_row, start):
    """All ranks go through the same runs: one would wait forever for a broadcast of the other."""
    one_row.recipe(WITH_NEED)
    (start_run,) = (planned for planned in one_row.plan().runs if _name(planned) == "start.LN.0")
    start_run.directory.prepare()
    start_run.directory.write_result({"outcome": "done", "metrics": {}})
    assert "done  top1 80" in rank0_output(start())
    assert one_row.computed() == ["small.LN.0"] * 2


def test_torchrun_with_a_finished_cell_shows_it(one_row, start):
    one_row.finish("small.LN.0", top1=81.25)
    assert "done  top1 81.25" in rank0_output(start())
    assert one_row.computed() == []


def _name(planned):
    return f"{planned.run.config.model}.{planned.run.config.norm}.{planned.run.config.seed}"
