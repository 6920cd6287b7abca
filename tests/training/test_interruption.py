"""A run that is asked to stop, or whose time to save has come, does so between two steps."""

import pytest

from matched.signals import Interrupted, watch_signals
from matched.training.fingerprint import BATCHES

from .problem import AskedAt, Trained, assert_same_run, same, trained


def asked(step):
    """A loss of one process that is asked to stop in ``step`` (0-based)."""
    return AskedAt(step, micro_batches=2)


def interrupt(directory, step, **where):
    with watch_signals(600, print), pytest.raises(Interrupted):
        trained(directory, where=where, loss=asked(step))
    return Trained(directory=directory)


@pytest.mark.parametrize("step", [0, 6, 10])
def test_it_saves_the_step_that_it_is_in_and_goes_on_from_there(tmp_path, undisturbed, step):
    run = interrupt(tmp_path, step)
    assert run.checkpoints[-1] == f"step_{step + 1:08d}.pt"
    assert max(line["step"] for line in run.lines or [{"step": 0}]) <= step + 1
    assert_same_run(trained(tmp_path, weights=99), undisturbed)


def test_the_log_says_so_in_one_line(tmp_path, caplog):
    with caplog.at_level("INFO", logger="matched"):
        interrupt(tmp_path, 6)
    assert caplog.messages[-2].startswith("saved step 7 in ")
    assert caplog.messages[-1] == "interrupted after step 7 of 12, which is saved"


def test_a_step_that_is_saved_anyway_is_saved_once(tmp_path):
    confirmed = []
    interrupt(tmp_path, 4, check_ownership=lambda: confirmed.append(1))
    assert len(confirmed) == BATCHES + 1, "once for each write of fingerprint.json"


def test_in_its_last_step_a_run_is_finished_instead(tmp_path, undisturbed):
    with watch_signals(600, print):
        assert_same_run(trained(tmp_path, loss=asked(11)), undisturbed)


def saved(said):
    return [int(line.split()[2]) for line in said.splitlines() if line.startswith("saved step")]


@pytest.mark.parametrize(
    "minutes, steps", [(0.0, list(range(1, 13))), (60.0, [12])], ids=["passed", "not passed"]
)
def test_a_checkpoint_is_due_when_the_minutes_have_passed(tmp_path, caplog, minutes, steps):
    with caplog.at_level("INFO", logger="matched"):
        trained(tmp_path, where={"checkpoint_steps": 99, "checkpoint_minutes": minutes})
    assert saved("\n".join(caplog.messages)) == steps


class TestTwoProcesses:
    def test_a_checkpoint_is_due_when_the_first_finds_that_the_minutes_have_passed(self, pair):
        # It tells the other at one boundary, and both save at the next.
        assert saved((pair / "said" / "timed-0.txt").read_text()) == [2, 4, 6, 8, 10, 12]
        timed, own = Trained(directory=pair / "timed"), Trained(directory=pair / "own-0")
        assert same(timed.state, own.state)

    @pytest.mark.parametrize("kind", ["asked", "sharded-asked"])
    def test_both_stop_at_the_same_step_when_one_is_asked(self, pair, resumed, kind):
        for rank in range(2):
            said = (pair / "said" / f"{kind}-{rank}.txt").read_text().splitlines()
            # Asked in step 7, said at its end, done at the end of the next.
            assert said[-2] == "interrupted after step 8 of 12, which is saved"
            assert said[-1].startswith("ended by Interrupted")
        suffix = "" if kind.startswith("sharded") else ".pt"
        names = [f"step_00000005{suffix}", f"step_00000008{suffix}"]
        assert Trained(directory=pair / kind).checkpoints == names
        again = Trained(directory=resumed / kind)
        whole = Trained(directory=pair / ("sharded" if kind.startswith("sharded") else "own-0"))
        assert again.lines == whole.lines
        assert same(again.state, whole.state)
