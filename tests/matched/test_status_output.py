"""Text of ``matched status``: steps, numbers, reasons, jobs, and runs that are only counted."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from matched import cli_output
from matched.status import Failure, JobId, JobStatus, RunStatus, State

SLURM = JobId(cluster="slurm", job_id="12_3")


def planned(title, state, **status):
    run = SimpleNamespace(signature=f"{title}-signature")
    return SimpleNamespace(title=title, run=run, status=RunStatus(state=state, **status))


RUNS = (
    planned("done", State.DONE, result={"steps": 40, "metrics": {"top1": 81.256, "LN/top1": 1}}),
    planned(
        "running",
        State.RUNNING,
        progress={"step": 5, "steps": 40, "shown": {"loss": 0.5}},
        job=SLURM,
        job_status=JobStatus(state=State.RUNNING, detail="RUNNING"),
    ),
    planned("failed", State.FAILED, failure=Failure(reason="no memory")),
    planned("new", State.NEW),
)


@pytest.fixture
def shown(monkeypatch):
    """Return a function that prints the status of runs and returns its lines."""

    def show(runs, listed=200):
        monkeypatch.setattr(cli_output, "LISTED", listed)
        monkeypatch.setattr(cli_output, "_show_changes", lambda plan, console: None)
        plan = SimpleNamespace(
            runs=runs,
            unfinished=[run for run in runs if not run.status.state.finished],
            site=SimpleNamespace(runs_folder="the/runs"),
        )
        console = Console(width=200)
        with console.capture() as capture:
            cli_output.show_status(plan, console)
        return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]

    return show


def test_status_shows_steps_numbers_reasons_and_jobs(shown):
    lines = shown(RUNS)
    assert lines[0] == "run signature state step numbers job"
    assert lines[2:] == [
        "done done-signature done 40 top1 81.26",
        "running running-signature running 5/40 loss 0.5 slurm job 12_3 RUNNING",
        "failed failed-signature failed no memory",
        "new new-signature new",
        "Runs are in the/runs",
    ]


@pytest.mark.parametrize(
    ("finished", "text"), [(1, "and 1 finished run"), (3, "and 3 finished runs")]
)
def test_status_counts_finished_runs_of_large_plans(shown, finished, text):
    runs = [*RUNS[1:], *[RUNS[0]] * finished]
    lines = shown(runs, listed=len(runs) - 1)
    assert lines[-2] == text
    assert [line.split()[0] for line in lines[2:-2]] == ["running", "failed", "new"]
    assert text not in shown(runs, listed=len(runs))


def test_line_of_a_run_has_its_metrics():
    assert cli_output.line(RUNS[0]) == "done  done-signature  done  top1 81.26"
    assert cli_output.line(RUNS[3]) == "new  new-signature  new"
