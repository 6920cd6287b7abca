"""Several processes of one run, as torchrun starts them: all compute, and rank 0 writes."""

import pytest

CELL = ["--row", "small", "--arm", "LN"]
WITH_NEED = """
START = Run(task="tiny:train", config=Config(model="start"))
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))
"""


@pytest.fixture
def start(one_row):
    """Starts both processes; they meet through torch, so that it has to be the real one."""
    one_row.meeting()

    def start():
        processes = []
        for rank in ("0", "1"):
            one_row.environment.update(WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank)
            processes.append(one_row.start("run", "table1", *CELL))
        return processes

    return start


def ends(processes):
    """Whether all end well; what rank 0 prints."""
    told = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert told[1][0] == "", "rank 0 speaks for all"
    return told[0][0]


def test_all_compute_the_runs_and_who_is_done_first_waits_for_the_result(one_row, start):
    """The next run needs it, and only rank 0 writes it."""
    one_row.recipe(WITH_NEED)
    one_row.trouble("rank 0 waits", "start.LN.0")
    processes = start()
    one_row.wait_for(lambda: len(one_row.computed()) == 2, *processes)
    states = {_name(planned): str(planned.status.state) for planned in one_row.plan().runs}
    assert (states["start.LN.0"], states["small.LN.0"]) == ("running", "queued")
    (one_row.root / "go").touch()
    assert "done  top1 80" in ends(processes)
    assert one_row.computed() == ["start.LN.0"] * 2 + ["small.LN.0"] * 2


def test_what_is_finished_already_is_left_alone_by_all(one_row, start):
    """All go through the same runs, or the one would wait for a word that the other never says."""
    one_row.recipe(WITH_NEED)
    (start_run,) = (i for i in one_row.plan().runs if _name(i) == "start.LN.0")
    start_run.directory.prepare()
    start_run.directory.write_result({"outcome": "done", "metrics": {}})
    assert "done  top1 80" in ends(start())
    assert one_row.computed() == ["small.LN.0"] * 2


def test_a_finished_cell_is_shown_and_all_end(one_row, start):
    one_row.finish("small.LN.0", top1=81.25)
    assert "done  top1 81.25" in ends(start())
    assert one_row.computed() == []


def _name(planned):
    return f"{planned.run.config.model}.{planned.run.config.norm}.{planned.run.config.seed}"
