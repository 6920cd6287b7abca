"""Several processes of one run, as torchrun starts them: all compute, and rank 0 writes."""

import time

import pytest

CELL = ["--row", "small", "--arm", "LN"]
WITH_NEED = """
START = Run(task="tiny:train", config=Config(model="start"))
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))
"""


@pytest.fixture
def start(one_row):
    """Starts a process of the given rank out of two."""
    processes = []

    def start(rank):
        one_row.environment.update(
            WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="localhost"
        )
        processes.append(one_row.start("run", "table1", *CELL))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_for(processes, condition):
    deadline = time.monotonic() + 30
    while not condition():
        ended = [process.communicate() for process in processes if process.poll() is not None]
        assert not ended, "a process ended too early"
        assert time.monotonic() < deadline, "waited 30 s in vain"
        time.sleep(0.02)


def ends(processes):
    """Whether all end well; what rank 0 prints."""
    told = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert told[1][0] == "", "rank 0 speaks for all"
    return told[0][0]


def test_all_compute_the_run(one_row, start):
    """The second comes when the first has noted down that the run is at work."""
    one_row.trouble("wait", "small.LN.0")
    processes = [start(0)]
    wait_for(processes, lambda: len(one_row.computed()) == 1)
    processes.append(start(1))
    wait_for(processes, lambda: len(one_row.computed()) == 2)
    (one_row.root / "go").touch()
    assert "done  top1 80" in ends(processes)
    assert one_row.computed() == ["small.LN.0"] * 2


def test_a_process_that_is_done_first_waits_for_the_result_that_it_needs_next(one_row, start):
    one_row.recipe(WITH_NEED)
    one_row.trouble("rank 0 waits", "start.LN.0")
    processes = [start(0), start(1)]
    wait_for(processes, lambda: len(one_row.computed()) == 2)
    time.sleep(0.3)  # time to fail, for a process that does not wait
    (one_row.root / "go").touch()
    assert "done  top1 80" in ends(processes)
    assert one_row.computed() == ["start.LN.0"] * 2 + ["small.LN.0"] * 2
