"""Plans: what is read and derived once, and runs that end while a plan is made."""

import os

from matched import job_status, run_directory, table


def test_make_plan_parses_files_of_finished_runs_once(one_row, parsed):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.finish(name, top1=1.0)
    parsed.clear()
    assert [planned.status.state for planned in one_row.plan().runs] == ["done", "done"]
    assert sorted(parsed) == ["config.json"] * 2 + ["result.json"] * 2


def test_make_plan_sees_a_run_that_ends_while_jobs_are_asked(one_row, monkeypatch):
    """Its job is over by then, which must not make it a failed run."""
    one_row.begun("small.LN.0", "local", str(os.getpid()))
    real = job_status.job_statuses

    def job_statuses(directories, queue=None, **options):
        directories = list(directories)
        one_row.finish("small.LN.0", top1=1.0)
        return dict.fromkeys(real(directories, queue, **options), run_directory.OVER)

    monkeypatch.setattr(job_status, "job_statuses", job_statuses)
    assert [planned.status.state for planned in one_row.plan().runs] == ["done", "new"]


def test_loading_and_planning_derive_every_run_once(project, monkeypatch):
    derived = []
    real = table.derive_run

    def derive_run(run, *, norm, seed):
        derived.append((run.config, norm, seed))
        return real(run, norm=norm, seed=seed)

    monkeypatch.setattr(table, "derive_run", derive_run)
    plan = project.plan()
    cells = [cell for scale in plan.recipe.table.scales for cell in plan.recipe.table.cells(scale)]
    assert len(derived) == len(cells)
