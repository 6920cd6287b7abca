"""The command ``matched``: plan, submit, status, table, report, logs, retry, cancel, run, …"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from matched import (
    cancellation,
    checkout,
    cli_output,
    cli_report,
    export,
    extra_arms,
    gallery,
    job_status,
    overrides,
    planning,
    preflight,
    projects,
    recipes,
    site,
    submission,
    table_formats,
)
from matched.cli_options import (
    add_cells,
    add_cluster,
    add_submission,
    add_table_command,
    selected_cells,
    selected_runs,
)
from matched.cli_report import garbage_collection_paused
from matched.job_status import SlurmQueue
from matched.planning import Plan
from matched.preflight import CLUSTERS
from matched.run_directory import RunFiles
from matched.status import State
from matched.summary_table import summary_table
from matched.watch import wait
from matched.wording import counted, match_name


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. A user's mistake ends in one line on standard error and exit code 2."""
    _replace_unprintable_characters()
    given = _parser().parse_args(arguments)
    try:
        code = given.do(given)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except ValueError as error:
        code = _report_error(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        code = _report_error(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        code = _report_error("interrupted; run the same command again to continue")
    sys.exit(code)


def _replace_unprintable_characters() -> None:
    """Print "?" for what the terminal's encoding lacks, such as α in Latin-1; do not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _report_error(text: str) -> int:
    print(f"matched: error: {' '.join(text.split())}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(_report_error(f"{message}; see `{self.prog} --help`"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="matched", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    command = partial(add_table_command, commands)
    listed = commands.add_parser("list", help="the tables that have a recipe")
    listed.set_defaults(do=_list)
    add_cluster(command("plan", _plan, "show the runs of a table and the requests of a submission"))
    add_submission(command("submit", _submit, "submit what is missing"))
    status = command("status", _status, "show the state of every run")
    status.add_argument("--watch", "-w", action="store_true", help="continue until all runs ended")
    command("table", _table, "print the summary table and write it to results/")
    exported = command("export", _export, "write the training curves of all runs for TensorBoard")
    exported.add_argument(
        "--tensorboard", required=True, type=Path, metavar="DIR", help="folder of the event files"
    )
    cli_report.add_commands(commands)
    command("audit", _audit, "show what differs between the runs of every pair")
    logs = commands.add_parser("logs", help="print the log of a run")
    logs.set_defaults(do=_logs)
    logs.add_argument("signature", help="of the run, as `status` shows it, or its first digits")
    logs.add_argument("--follow", "-f", action="store_true", help="continue until the run ended")
    add_submission(command("retry", _retry, "run failed and damaged runs again"))
    add_cells(command("cancel", _cancel, "stop runs that are queued or running"), one=False)
    add_cells(command("run", _run, "run one cell here, in the foreground"), one=True)
    return parser


@garbage_collection_paused()
def _load(given: argparse.Namespace) -> Plan:
    """Return the plan of the given table, or of one cell for the command ``run``."""
    recipe = recipes.load(given.table)
    checkout.check_packages(recipe.project)
    settings = site.read(site.find(recipe.project))
    recipe, scale = overrides.with_changes(recipe, recipe.scale(given.scale), given.changes)
    recipe, scale = extra_arms.with_arms(recipe, scale, given.extra_arms)
    cluster = getattr(given, "cluster", "local")
    if given.do is not _run:
        return planning.make_plan(recipe, scale, settings).on_cluster(cluster)
    cell, *_ = selected_cells(given, recipe.table.cells(scale))
    return planning.make_plan(recipe, scale, settings, only=[cell]).on_cluster(cluster)


def _console() -> Console:
    # Error messages may contain brackets, which rich takes for markup by default.
    console = Console(markup=False)
    # Pipes and files have no width; tables must not be folded there.
    return console if console.is_terminal else Console(markup=False, width=1000)


def _list(given: argparse.Namespace) -> int:
    print("\n".join(recipes.available()))
    return 0


def _plan(given: argparse.Namespace) -> int:
    plan = _load(given)
    match_name(given.cluster, CLUSTERS, "cluster")
    cli_output.show_plan(plan, given.cluster, _console())
    return 0


def _submit(given: argparse.Namespace) -> int:
    return _launch(_load(given), given)


def _retry(given: argparse.Namespace) -> int:
    plan = _load(given)
    if plan.damaged:  # nothing is renamed unless the submission can follow
        preflight.check_submission(plan, given.cluster)
    for planned in plan.damaged:
        for path in planned.directory.rename_damaged():
            print(f"set aside: {path}")
    return _launch(plan.refreshed(), given)


def _launch(plan: Plan, given: argparse.Namespace) -> int:
    console = _console()
    plan, jobs = submission.submit(plan, given.cluster, snapshot=given.snapshot)
    count = len(plan.missing)
    console.print(
        f"{plan.recipe.name} at {plan.scale.name} scale: {count} of "
        f"{counted(len(plan.runs), 'run')} submitted in {counted(len(jobs), 'job')} "
        f"({given.cluster}); runs are in {plan.site.runs_folder}",
        highlight=False,
        soft_wrap=True,
    )
    if given.cluster == "debug":
        for job in jobs:
            job.result()
    if given.wait:
        children = jobs if given.cluster == "local" else []
        return _show(wait(plan, children, console), console)
    if given.cluster == "debug":
        return _exit_code(plan.refreshed())
    return _report_damage(plan)  # failed runs have just been submitted again


def _status(given: argparse.Namespace) -> int:
    plan, console = _load(given), _console()
    if given.watch:
        plan = wait(plan, [], console)
    cli_output.show_status(plan, console)
    return _exit_code(plan)


@garbage_collection_paused()
def _table(given: argparse.Namespace) -> int:
    return _show(_load(given), _console())


def _show(plan: Plan, console: Console) -> int:
    stem = plan.recipe.project / "results" / plan.recipe.results_name(plan.scale)
    # Written first, because printing may fail; printed also if the folder cannot be written.
    try:
        pictures = gallery.copy_pictures(plan, stem)
    except OSError:
        table_formats.print_table(summary_table(plan), console)
        raise
    table = summary_table(plan, pictures)
    try:
        paths = table_formats.write_files(table, stem)
    finally:
        table_formats.print_table(table, console)
    names = ", ".join(path.name.removeprefix(f"{stem.name}.") for path in paths)
    console.print(f"Written: {stem}.{{{names}}}", style="dim", highlight=False, soft_wrap=True)
    if pictures.rows:
        count = sum(len(row.paths) for row in pictures.rows)
        text = f"Pictures: {stem}/ ({count}; the Markdown shows them)"
        console.print(text, style="dim", highlight=False, soft_wrap=True)
    unmatched = any(record["matched"] == "no" for record in table.records)
    return _exit_code(plan) or int(unmatched)


def _exit_code(plan: Plan) -> int:
    """Return 2 and print one line if a run is damaged; else 1 if a run has failed, or 0."""
    return _report_damage(plan) or int(any(i.status.state is State.FAILED for i in plan.runs))


def _report_damage(plan: Plan) -> int:
    """Return 2 and print one line if a run is damaged, else 0."""
    damaged = plan.damaged
    if not damaged:
        return 0
    more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
    return _report_error(
        f"damaged: {damaged[0].status.reason}{more}; it is not used. "
        f"`matched retry {plan.recipe.arguments(plan.scale)}` sets it aside and runs it again"
    )


def _audit(given: argparse.Namespace) -> int:
    return cli_output.show_audit(_load(given), _console())


def _export(given: argparse.Namespace) -> int:
    writer = export.tensorboard_writer()
    folders, without = export.write_event_files(_load(given), given.tensorboard, writer)
    none = f"; {counted(len(without), 'run')} without any" if without else ""
    print(
        f"Written: training curves of {counted(len(folders), 'run')} to {given.tensorboard}{none}"
    )
    return 0


def _logs(given: argparse.Namespace) -> int:
    run = _find_run(given.signature)
    path, queue = run / "log.txt", SlurmQueue()
    if not path.exists():
        job = run.job()
        more = f"; what its job printed is in {job.folder}" if job is not None else ""
        raise ValueError(f"run {run.path.name} has no log: it has not started{more}")
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            # Checked first, so that what a run writes before it ends is still printed.
            live = given.follow and _is_live(run, queue)
            print(file.read(), end="", flush=True)
            if not live:
                return 0
            time.sleep(1)


def _is_live(run: RunFiles, queue: SlurmQueue) -> bool:
    """True if the run's job is queued or running and the run has not failed in it."""
    job, failure = run.job(), run.failure()
    if job is not None and failure is not None and failure.token == job.token:
        return False
    return any(status.state for status in job_status.job_statuses([run], queue).values())


def _find_run(signature: str) -> RunFiles:
    """Return the directory of the run whose signature starts with ``signature``."""
    folder = site.read(site.find(projects.current())).runs_folder
    if not re.fullmatch("[0-9a-f]{3,12}", signature):
        raise ValueError(
            f"{signature!r} is not a signature; expected 12 of the digits 0-9 and a-f, or at least "
            "the first 3; `matched status` shows every run's"
        )
    found = sorted(folder.glob(f"*/{signature}*"))
    if not found:
        raise ValueError(f"no run below {folder} has a signature that starts with {signature}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"several signatures start with {signature}: {names}")
    return RunFiles(found[0])


def _cancel(given: argparse.Namespace) -> int:
    plan = _load(given)
    cells = plan.recipe.table.cells(plan.scale)
    stopped = cancellation.cancel_runs(plan, selected_runs(given, cells, plan.runs))
    runs = counted(sum(map(len, stopped.values())), "run")
    jobs = counted(len(stopped), "job")
    print(f"{runs} asked to stop, in {jobs}; `matched submit` continues them")
    return 0


def _run(given: argparse.Namespace) -> int:
    plan = _load(given)
    if os.environ.get("RANK", "0") != "0":
        submission.run_in_process(plan)
        return 0
    preflight.check_foreground(plan)
    console = _console()
    # Other ranks wait for this process even if nothing is missing.
    if plan.missing or os.environ.get("WORLD_SIZE", "1") != "1":
        cli_output.run_shown(plan, console)
        plan = plan.refreshed()
    planned = plan.runs[-1]
    if planned.status.state is State.FAILED:
        return _report_error(planned.status.reason)
    console.print(cli_output.line(planned), highlight=False, markup=False, soft_wrap=True)
    return _exit_code(plan)
