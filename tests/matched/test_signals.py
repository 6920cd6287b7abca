"""Jobs that are asked to stop: what is saved, what starts again by itself, and what does not."""

import os
import signal

import pytest

from matched import job_runner as module
from matched import signals
from matched.signals import PREEMPTION_SIGNAL

FIRST, SECOND = "small.LN.0", "small.DyT.0"


@pytest.fixture
def at_work(one_row):
    """A job of both runs that this machine has been given, the first run being under way."""
    one_row.site("[local]\nworkers = 1\n[slurm]\ngrace_seconds = 1\n")

    def start(what):
        one_row.trouble(what, FIRST)
        one_row.job_process = one_row.start("submit", "table1", "--wait")
        one_row.wait_for(lambda: starts(one_row), one_row.job_process)
        return one_row

    return start


def starts(project):
    """(process, the step that it went on from) of every start of the run."""
    path = project.root / "started"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [
        tuple(map(int, line.split())) for line in text.splitlines(keepends=True) if "\n" in line
    ]


def controller(project):
    return int(project.directory(FIRST).job().job.job_id)


def end(project, code):
    out, err = project.job_process.communicate(timeout=30)
    assert project.job_process.returncode == code, out + err
    return out


# --- jobs of this machine


@pytest.mark.parametrize("what", ["steps", "wait"], ids=["it saves", "it does not listen"])
def test_a_preempted_job_starts_again_and_goes_on(at_work, what):
    project = at_work(what)
    os.kill(starts(project)[0][0], PREEMPTION_SIGNAL)
    project.wait_for(lambda: len(starts(project)) == 2, project.job_process)
    (first, begin), (second, resumed) = starts(project)
    assert first != second and begin == 0
    assert (resumed > 0) == (what == "steps"), "from its last checkpoint"
    (project.root / "go").touch()
    end(project, 0)
    assert project.states() == {FIRST: "done", SECOND: "done"}
    assert project.computed() == [FIRST, FIRST, SECOND]


@pytest.mark.parametrize("what", ["steps", "wait"], ids=["it saves", "it does not listen"])
def test_a_terminated_job_ends_and_the_next_submission_goes_on(at_work, what):
    project = at_work(what)
    os.kill(controller(project), signal.SIGTERM)
    assert "failed" in end(project, 1)
    assert project.states() == {FIRST: "failed", SECOND: "failed"}
    assert project.computed() == [FIRST], "it is not started again"
    assert not (project.directory(FIRST) / "failure.json").exists(), "it has done nothing wrong"
    (project.root / "go").touch()
    project.compute("submit", "table1", "--wait")
    assert (starts(project)[1][1] > 0) == (what == "steps")
    assert project.states() == {FIRST: "done", SECOND: "done"}


def test_a_run_in_the_foreground_that_is_terminated_can_be_gone_on_with(one_row):
    one_row.trouble("steps", FIRST)
    cell = ["run", "table1", "--row", "small", "--arm", "LN"]
    process = one_row.start(*cell)
    one_row.wait_for(lambda: starts(one_row), process)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err
    assert one_row.states()[FIRST] == "failed"
    (one_row.root / "go").touch()
    one_row.compute(*cell)
    assert starts(one_row)[1][1] > 0
    assert one_row.states()[FIRST] == "done"


# --- jobs of Slurm, which is played by an object


class Slurm:
    """Slurm's side of a job: it ends a start that has been queued again, as Slurm does."""

    num_tasks = 1

    def __init__(self):
        self.requeued = 0

    def _requeue(self, countdown):
        self.requeued += 1
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def on_slurm(one_row, pack, monkeypatch):
    """Computes the job there: how often it was queued again, and its exit code."""
    monkeypatch.setattr(module, "UNTIL_KILLED", 0.3)
    one_row.program("squeue", "")

    def compute(**more):
        slurm = Slurm()
        with pytest.raises(SystemExit) as exit:
            pack(**more).compute("slurm", "41", slurm)
        assert exit.value.code == 128 + signal.SIGTERM
        return slurm.requeued

    return compute


def why(project, name=FIRST):
    path = project.directory(name) / "failure.json"
    return project.json(path)["reason"] if path.exists() else None


USED_UP, LONG = 1, 60
"""Minutes that a job has: as many as have gone by at the start, by the rounding of Slurm; more."""


@pytest.mark.parametrize("what", ["saving", "filling"])
def test_a_job_at_its_time_limit_is_queued_again(one_row, on_slurm, what):
    """If it has saved a step, or one of many files."""
    one_row.trouble(f"gets SIGUSR2 {what}", FIRST)
    assert on_slurm(minutes=USED_UP) == 1
    assert why(one_row) is None and one_row.computed() == [FIRST]


def test_a_run_that_saves_nothing_in_the_whole_time_of_a_job_has_failed(one_row, on_slurm):
    """Or it would be queued again for ever. The others of the job still get their turn."""
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=USED_UP) == 1
    assert why(one_row).startswith("not one step was saved in the whole time of a job, 1 min:")
    assert "max_hours under [slurm]" in why(one_row)
    one_row.trouble("gets SIGUSR2 saving", SECOND)
    assert on_slurm(minutes=USED_UP) == 1
    assert one_row.computed() == [FIRST, SECOND], "it is not begun again in this job"


def test_a_job_of_one_such_run_is_not_queued_again(one_row, on_slurm):
    one_row.finish(SECOND, top1=1.0)
    one_row.recipe("TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=SMALL),))")
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=USED_UP) == 0
    assert "not one step was saved" in why(one_row)


@pytest.mark.parametrize(
    ("limit", "before"), [(LONG, None), (None, None)], ids=["preempted early", "no limit"]
)
def test_a_run_that_had_less_than_the_whole_time_is_not_blamed(one_row, on_slurm, limit, before):
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=limit) == 1
    assert why(one_row) is None


def test_a_run_that_was_begun_late_is_not_blamed(one_row, on_slurm, monkeypatch):
    """The runs before it had most of the time."""
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock, 100.0))
    monkeypatch.setattr(module, "UNTIL_KILLED", 0)
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=USED_UP) == 1
    assert why(one_row) is None


def test_a_cancelled_job_is_not_queued_again(one_row, on_slurm):
    one_row.trouble("gets SIGTERM saving", FIRST)
    assert on_slurm(minutes=LONG) == 0
    assert why(one_row) is None


def test_signals_are_whoevers_they_were_before(one_row, on_slurm):
    def mine(number, frame):
        """A handler that somebody else has set."""

    before = {number: signal.signal(number, mine) for number in signals.SIGNALS}
    one_row.trouble("gets SIGUSR2 saving", FIRST)
    on_slurm(minutes=LONG)
    after = [signal.signal(number, handler) for number, handler in before.items()]
    assert after == [mine, mine]
    assert signals.stop_signal() is None
