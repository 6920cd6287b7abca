"""Live progress: events, numbers, and the line for all runs."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from matched import watch
from matched.status import Failure, RunStatus, State


def planned(state, title="a run", *, step=None, steps=100, result=None, reason="", shown=()):
    progress = None if step is None else {"step": step, "steps": steps, "shown": dict(shown)}
    failure = Failure(reason=reason) if reason else None
    status = RunStatus(state=state, progress=progress, result=result, failure=failure)
    return SimpleNamespace(title=title, status=status)


def metrics(**values):
    return {"metrics": values}


@pytest.mark.parametrize(
    ("run", "event"),
    [
        (planned(State.NEW), ""),
        (planned(State.QUEUED), ""),
        (planned(State.RUNNING), "running, 0%"),
        (planned(State.RUNNING, step=24), "running, 0%"),
        (planned(State.RUNNING, step=25), "running, 25%"),
        (planned(State.RUNNING, step=99), "running, 75%"),
        (planned(State.RUNNING, step=100), "running, 100%"),
        (planned(State.RUNNING, step=5, steps=0), "running, 0%"),
        (planned(State.FAILED, reason="no memory"), "failed no memory"),
        (planned(State.DAMAGED), "damaged"),
        (planned(State.DONE, result=metrics(top1=81.25, loss=0.70001)), "done top1 81.25 loss 0.7"),
        (planned(State.DONE, result={}), "done"),
        (planned(State.DIVERGED, result=metrics()), "diverged"),
    ],
    ids=str,
)
def test_event_is_the_state_with_progress_in_quarters(run, event):
    assert watch._event(run) == event


def test_metrics_of_several_arms_are_not_listed():
    result = {"metrics": {"a": 1, "LN/a": 2, "DyT/a": 3}}
    assert watch.own_metrics(result) == {"a": 1} and watch.own_metrics({}) == {}


def test_numbers_have_four_digits_and_none_is_left_out():
    numbers = {"top1": 81.256, "lr": 1.23456e-05, "step": 12345.0, "loss": None}
    assert watch.format_numbers(numbers) == "top1 81.26 lr 1.235e-05 step 1.234e+04"


def picture(runs, rows=10, seconds=60.0):
    unfinished = [run for run in runs if not run.status.state.finished]
    plan = SimpleNamespace(runs=runs, unfinished=unfinished)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(watch._picture(plan, rows, seconds))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_picture_counts_states_and_estimates_the_time_left():
    runs = [
        planned(State.DONE),
        planned(State.DONE),
        planned(State.DIVERGED),
        planned(State.RUNNING, "one", step=50, shown={"loss": 0.25}),
        planned(State.QUEUED),
        planned(State.FAILED, "two", reason="no memory"),
        planned(State.NEW),
    ]
    assert picture(runs, seconds=600.0) == [
        f"one  {'━' * 15:30}  50 steps  loss 0.25",
        f"two  {'failed':30}  no memory",
        # Half of seven runs in ten minutes.
        f"{'━' * 20:40}  3 of 7 runs finished "
        "(1 new, 1 queued, 1 running, 1 failed, 1 diverged, 2 done), about 10 min left",
    ]


@pytest.mark.parametrize(
    ("done", "of", "left"), [(0, 4, ""), (1, 10, ""), (2, 10, ", about 4 min left"), (4, 4, "")]
)
def test_time_left_is_told_after_a_tenth(done, of, left):
    runs = [planned(State.DONE)] * done + [planned(State.QUEUED)] * (of - done)
    *_, line = picture(runs)
    states = ", ".join(f"{n} {s}" for n, s in ((of - done, "queued"), (done, "done")) if n)
    assert line.endswith(f"{done} of {of} runs finished ({states}){left}")


def test_picture_has_at_most_the_lines_of_the_terminal():
    runs = [planned(State.RUNNING, f"run {i}", step=1) for i in range(5)]
    lines = picture(runs, rows=3)
    assert [line.split("  ")[0][:5] for line in lines[:3]] == ["run 0", "run 1", "run 2"]
    assert lines[3] == "and 2 more" and len(lines) == 5
    assert len(picture(runs, rows=5)) == 6
    assert "1 step " in lines[0] + " "


def test_lines_tell_each_event_once(monkeypatch):
    monkeypatch.setattr(watch.time, "strftime", lambda form: form)

    def plan(*runs):
        for name, run in zip("ab", runs, strict=True):
            run.run = SimpleNamespace(signature=name)
        open_runs = [run for run in runs if not run.status.state.finished]
        return SimpleNamespace(runs=runs, unfinished=open_runs)

    queued = planned(State.QUEUED, "first"), planned(State.DONE, "second", result=metrics(top1=1))
    console = Console(file=io.StringIO(), width=20)
    with watch._Lines(console, plan(*queued)) as lines:
        running = planned(State.RUNNING, "first", step=30)
        for run in (queued[0], running, planned(State.RUNNING, "first", step=31), running):
            lines.show(plan(run, queued[1]))
        lines.show(plan(planned(State.FAILED, "first", reason="no memory [1]"), queued[1]))
    assert console.file.getvalue().splitlines() == [
        "%H:%M:%S first: running, 25% (1 to go)",
        "%H:%M:%S first: failed no memory [1] (1 to go)",
    ]


@pytest.mark.parametrize(("cost", "pause"), [(0.01, 0.5), (0.1, 2.5)])
def test_wait_rests_25_times_as_long_as_a_refresh_takes(monkeypatch, cost, pause):
    """The jobs are over at the third look, and the last run with the fourth."""
    clock, pauses, shown = [0.0], [], []
    states = iter([State.RUNNING] * 4 + [State.DONE] * 2)

    def refreshed(queue):
        clock[0] += cost
        state = next(states)
        run = planned(state, result=metrics() if state is State.DONE else None)
        run.run = SimpleNamespace(signature="a")
        unfinished = [] if state is State.DONE else [run]
        plan = SimpleNamespace(runs=[run], unfinished=unfinished, refreshed=refreshed)
        shown.append(plan)
        return plan

    monkeypatch.setattr(watch.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(watch.time, "sleep", pauses.append)
    looks = iter([False, False, True, True])
    jobs = [SimpleNamespace(done=lambda: next(looks))]
    first = SimpleNamespace(runs=[planned(State.NEW)], refreshed=refreshed)
    last = watch.wait(first, jobs, Console(file=io.StringIO()))
    assert pauses == [pytest.approx(pause)] * 3 and last is shown[-1] and len(shown) == 5


def test_wait_ends_when_all_processes_have_been_reaped(monkeypatch):
    """The runs have finished before; the second process ends at the third look."""
    pauses = []
    plan = SimpleNamespace(runs=[planned(State.DONE, result=metrics())], unfinished=[])
    plan.refreshed = lambda queue: plan
    looks = iter([False, False, True])
    jobs = [SimpleNamespace(done=lambda: True), SimpleNamespace(done=lambda: next(looks))]
    monkeypatch.setattr(watch.time, "sleep", pauses.append)
    assert watch.wait(plan, jobs, Console(file=io.StringIO())) is plan
    assert len(pauses) == 2


def test_bars_are_drawn_in_a_terminal_and_end_with_it(monkeypatch):
    events = []

    class Bars:
        def __init__(self, console):
            self.live = SimpleNamespace(
                __enter__=lambda: events.append("enter"),
                __exit__=lambda *error: events.append(error),
            )

        __enter__, __exit__ = watch._Bars.__enter__, watch._Bars.__exit__

        def show(self, plan):
            events.append(plan)

    monkeypatch.setattr(watch, "_Bars", Bars)
    plan = SimpleNamespace(runs=[], unfinished=[])
    plan.refreshed = lambda queue: plan
    console = Console(file=io.StringIO(), force_terminal=True)
    assert watch.wait(plan, [], console) is plan
    assert events == ["enter", plan, (None, None, None)]


def test_bars_fill_the_terminal_but_three_lines(monkeypatch):
    updates = []
    live = SimpleNamespace(
        console=SimpleNamespace(height=13),
        update=lambda picture, refresh: updates.append((picture, refresh)),
    )
    monkeypatch.setattr(watch, "_picture", lambda *arguments: arguments)
    monkeypatch.setattr(watch.time, "monotonic", iter([100.0, 107.5]).__next__)
    bars = watch._Bars(Console(file=io.StringIO()))
    bars.live = live
    bars.show("plan")
    assert updates == [(("plan", 10, 7.5), True)]


@pytest.mark.parametrize(
    ("state", "style"),
    [
        (State.NEW, "dim"),
        (State.QUEUED, "dim"),
        (State.FAILED, "bold red"),
        (State.DAMAGED, "bold red"),
        (State.DIVERGED, "yellow"),
        (State.DONE, "green"),
    ],
)
def test_states_other_than_running_are_words_in_colours(state, style):
    text, reason = watch._cells(planned(state, reason="why"))
    assert (text.plain, text.style, reason) == (str(state), style, "why")


def test_running_state_is_a_bar_with_steps_and_numbers():
    bar, text = watch._cells(planned(State.RUNNING, step=1, steps=4, shown={"loss": 0.5}))
    assert (bar.total, bar.completed, bar.width, text) == (1, 0.25, 30, "1 step  loss 0.5")
    bar, text = watch._cells(planned(State.RUNNING))
    assert (bar.completed, text) == (0.0, "0 steps  ")


def test_refresh_is_repeated_until_slurm_has_been_silent_too_long(monkeypatch):
    clock, pauses = [0.0], []

    def sleep(seconds):
        pauses.append(seconds)
        clock[0] += seconds

    def refreshed(queue):
        raise ValueError("squeue failed")

    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watch.time, "sleep", sleep)
    monkeypatch.setattr(watch, "SLURM_PATIENCE", 14)
    with pytest.raises(ValueError, match="squeue failed"):
        watch._refreshed(SimpleNamespace(refreshed=refreshed), None)
    assert pauses == [5.0] * 3
