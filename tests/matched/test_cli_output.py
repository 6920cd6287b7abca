"""Whole output of commands: every line that a user sees, its numbers, and its exit code."""

import io
import os
import re

import pytest
from rich.console import Console

from matched import MemoryEstimate, cli_output, cli_report, preflight
from matched.files import write_json
from matched.status import Failure


def lines(project, *arguments, code=0):
    """Return the lines of a command, without rules, padding, signatures and paths."""
    text = project.cli(*arguments, code=code).replace(str(project.root), "ROOT")
    text = re.sub(r"\b[0-9a-f]{12}\b", "SIGNATURE", text)
    shown = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in shown if line.strip("─ ")]


@pytest.fixture
def mixed(project):
    """A project with a finished, a diverged, a failed and a damaged run, and four new ones."""
    project.finish("small.LN.0", top1=81.256)
    project.finish("small.DyT.0", outcome="diverged", top1=40.0)
    failed = project.directory("small.LN.1")
    failed.prepare()
    # rich takes brackets for markup: it would drop the first and raise an error for the second.
    failed.write_failure(Failure(reason="no [data] in [/scratch/x]"))
    damaged = project.finish("small.DyT.1", top1=1.0)
    (damaged / "result.json").write_text("{}", encoding="utf-8")
    return project


REST = [f"large · {arm} · seed {seed}" for seed in (0, 1) for arm in ("LN", "DyT")]
IS_DAMAGED = "ROOT/runs/tiny.train/SIGNATURE/result.json lacks signature, outcome, metrics"
DAMAGE = (
    f"matched: error: damaged: {IS_DAMAGED}; it is not used. `matched retry table1 --scale smoke` "
    "sets it aside and runs it again"
)


def test_whole_output_of_plan(mixed):
    assert lines(mixed, "plan", "table1") == [
        "run signature state task",
        "small · LN · seed 0 SIGNATURE done tiny:train",
        "small · DyT · seed 0 SIGNATURE diverged tiny:train",
        "small · LN · seed 1 SIGNATURE failed tiny:train",
        "small · DyT · seed 1 SIGNATURE damaged tiny:train",
        *(f"{title} SIGNATURE new tiny:train" for title in REST),
        "table1 at smoke scale, data none: 5 of 8 runs to do, in 1 job (local)",
        "Expected: 2.5 h here, 1 run at a time",
    ]


def test_whole_output_of_plan_for_slurm(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(minutes=90, small=SMALL),))")
    project.finish("small.LN.1", top1=1.0)
    log = "ROOT/runs/.jobs/%A_%a/%A_%a_0_log"
    assert lines(project, "plan", "table1", "--cluster", "slurm", "--set", "lr=0.2") == [
        "run signature state task",
        *(f"small · {arm} · seed {seed} SIGNATURE new tiny:train" for seed in (0, 1)
          for arm in ("LN", "DyT")),
        "Changed on the command line: lr=0.2",
        "table1 at smoke scale, data none: 4 of 4 runs to do, in 4 jobs (slurm)",
        "Slurm is asked for table1-train-smoke: 4 jobs of 1 run:",
        "for small · LN · seed 0; small · DyT · seed 0; small · LN · seed 1; small · DyT · seed 1",
        "#SBATCH --array=0-3%4",
        "#SBATCH --cpus-per-task=10",
        f"#SBATCH --error={log}.err",
        "#SBATCH --job-name=table1-train-smoke",
        "#SBATCH --mem=48GB",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={log}.out",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --time=90",
        "#SBATCH --wckey=submitit",
        "stage runs jobs core-hours",
        "train 4 4 60.0",
        "table 4 4 60.0",
        "Expected: 1.5 h from the first job's start to the last one's end, if none waits in the "
        "queue",
    ]  # fmt: skip


def test_whole_output_of_plan_without_enough_gpus(project):
    project.recipe("TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), gpus=2, small=SMALL),))")
    assert lines(project, "plan", "table1")[1:] == [
        "small · LN · seed 0 SIGNATURE new tiny:train",
        "table1 at smoke scale, data none: 1 of 1 run to do, in 1 job (local)",
        "Cannot run here: table1 asks for 2 GPUs per run and this machine has 0 (`gpus` under "
        "[local] in ROOT/site.toml is 0); use --cluster slurm",
    ]


def test_whole_output_of_plan_with_runs_of_a_minute(project):
    project.recipe("TABLE = Table(arms=ARMS[:1], scales=(scale(minutes=1, small=SMALL),))")
    assert lines(project, "plan", "table1", "--cluster", "debug")[-2:] == [
        "table1 at smoke scale, data none: 2 of 2 runs to do, in 1 job (debug)",
        "Expected: 0.0 h here, 1 run at a time; runs of seconds count as a minute",
    ]


def test_plan_lists_up_to_eight_runs_of_a_request(project):
    project.recipe(
        "TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=tuple(range(8)), small=SMALL),))"
    )

    def listed():
        told = lines(project, "plan", "table1", "--cluster", "slurm")
        return next(line for line in told if line.startswith("for "))

    eight = "for " + "; ".join(f"small · LN · seed {seed}" for seed in range(8))
    assert listed() == eight
    project.recipe(
        "TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=tuple(range(10)), small=SMALL),))"
    )
    assert listed() == f"{eight}; and 2 more"


def test_whole_output_of_status(mixed):
    changes = ("--set", "lr=0.1", "--set", "epochs=1")
    assert lines(mixed, "status", "table1", *changes, code=2) == [
        "run signature state step numbers job",
        "small · LN · seed 0 SIGNATURE done 3 top1 81.26",
        "small · DyT · seed 0 SIGNATURE diverged 3 top1 40",
        "small · LN · seed 1 SIGNATURE failed no [data] in [/scratch/x]",
        f"small · DyT · seed 1 SIGNATURE damaged {IS_DAMAGED}",
        *(f"{title} SIGNATURE new" for title in REST),
        "Changed on the command line: epochs=1, lr=0.1",
        "Runs are in ROOT/runs",
        DAMAGE.replace("--scale smoke", "--scale smoke --set epochs=1 --set lr=0.1"),
    ]


def test_exit_codes_of_failed_damaged_and_unmatched_runs(mixed):
    """2 for a damaged run, else 1 for a failed or an unmatched one, else 0."""
    told = lines(mixed, "table", "table1", code=2)
    assert told[-1] == DAMAGE
    assert "Failed: small · LN · seed 1: no [data] in [/scratch/x]" in told
    other = mixed.finish("large.LN.0", top1=1.0)
    (other / "result.json").write_text("[]", encoding="utf-8")
    assert " (and 1 more); it is not used." in lines(mixed, "status", "table1", code=2)[-1]
    mixed.finish("small.DyT.1", top1=82.0)
    mixed.finish("large.LN.0", top1=82.0)
    mixed.cli("status", "table1", code=1)
    mixed.cli("table", "table1", code=1)
    mixed.finish("small.LN.1", top1=82.0)
    mixed.cli("status", "table1", code=0)
    mixed.cli("table", "table1", code=0)
    path = mixed.directory("small.DyT.1") / "fingerprint.json"
    write_json(path, {"weights": "x" * 16, "batches": ["b" * 16]})
    mixed.cli("status", "table1", code=0)
    mixed.cli("table", "table1", code=1)


def test_submit_reports_damage_and_repeats_failures(mixed):
    for name, script in (("sbatch", "echo Submitted batch job 7"), ("srun", ""), ("squeue", "")):
        mixed.program(name, script)
    assert lines(mixed, "submit", "table1", "--cluster", "slurm", code=2) == [
        "table1 at smoke scale: 5 of 8 runs submitted in 5 jobs (slurm); runs are in ROOT/runs",
        DAMAGE,
    ]


def test_retry_sets_damaged_files_aside_and_submits_their_runs(mixed):
    for name, script in (("sbatch", "echo Submitted batch job 7"), ("srun", ""), ("squeue", "")):
        mixed.program(name, script)
    set_aside, launched = lines(mixed, "retry", "table1", "--cluster", "slurm")
    assert re.sub(r"damaged-\S+", "damaged-TIME", set_aside) == (
        "set aside: ROOT/runs/tiny.train/SIGNATURE/result.json.damaged-TIME"
    )
    assert launched == (
        "table1 at smoke scale: 6 of 8 runs submitted in 6 jobs (slurm); runs are in ROOT/runs"
    )


def test_retry_renames_nothing_unless_it_can_submit(mixed):
    before = mixed.snapshot()
    assert "no sbatch on PATH" in mixed.mistake("retry", "table1", "--cluster", "slurm")
    assert mixed.snapshot() == before


def test_whole_output_of_audit(mixed):
    path = mixed.directory("small.DyT.0") / "fingerprint.json"
    write_json(path, {"weights": "x1" * 8, "batches": ["b" * 16, "c" * 16]})
    (mixed.directory("small.DyT.1") / "fingerprint.json").write_text("{", encoding="utf-8")
    told = lines(mixed, "audit", "table1", code=1)
    damage = told.pop(3)
    assert re.sub(r"\(.*\)", "(WHY)", damage) == (
        "small, seed 1 config.norm: 'LN' → 'DyT' — — not matched: "
        "ROOT/runs/tiny.train/SIGNATURE/fingerprint.json is not valid JSON (WHY)"
    )
    assert told == [
        "pair differs in first weights first batches verdict",
        "small, seed 0 config.norm: 'LN' → 'DyT' wwwwwwww bbbb not matched: fingerprints differ in "
        "weights",
        "LN / DyT x1x1x1x1 bbbb cccc",
        "LN / DyT damaged damaged",
        "large, seed 0 config.norm: 'LN' → 'DyT' — — unknown: no fingerprint yet",
        "LN / DyT — —",
        "large, seed 1 config.norm: 'LN' → 'DyT' — — unknown: no fingerprint yet",
        "LN / DyT — —",
    ]


def colored(project, show, *arguments):
    """Return text → style of what is printed in a terminal, other than in the default style."""
    console = Console(force_terminal=True, color_system="standard", width=200, file=io.StringIO())
    show(project.plan(), *arguments, console)
    pieces = re.findall(r"\x1b\[([\d;]+)m([^\x1b]+)", console.file.getvalue())
    return {text.strip(): style for style, text in pieces if style != "0" and text.strip("─ ")}


GREEN, YELLOW, BOLD_RED, DIM, BOLD = "32", "33", "1;31", "2", "1"


def test_states_and_verdicts_are_the_only_colors(mixed):
    """rich would color numbers and paths by default."""
    path = mixed.directory("small.DyT.1") / "fingerprint.json"
    write_json(path, {"weights": "x" * 16, "batches": ["b" * 16]})
    mixed.finish("small.LN.1", top1=1.0)
    states = {"done": GREEN, "diverged": YELLOW, "damaged": BOLD_RED, "new": DIM}
    titles = dict.fromkeys(("run", "signature", "state"), BOLD)
    told = colored(mixed, cli_output.show_plan, "local")
    assert told == {**states, **titles, "task": BOLD}
    told = colored(mixed, cli_output.show_plan, "slurm")
    titles = dict.fromkeys((*titles, "task", "stage", "runs", "jobs", "core-hours"), BOLD)
    assert told == {**states, **titles}
    titles = dict.fromkeys(("run", "signature", "state", "step", "numbers", "job"), BOLD)
    assert colored(mixed, cli_output.show_status) == {**states, **titles}
    titles = ("pair", "differs in", "first weights", "first batches", "verdict")
    assert colored(mixed, cli_output.show_audit) == {
        "matched": GREEN,
        "not matched: fingerprints differ in weights": BOLD_RED,
        "unknown: no fingerprint yet": DIM,
        **dict.fromkeys(titles, BOLD),
    }


def test_whole_output_of_list_cancel_run_and_table(one_row):
    assert lines(one_row, "list") == ["table1"]
    assert lines(one_row, "cancel", "table1") == [
        "0 runs asked to stop, in 0 jobs; `matched submit` continues them"
    ]
    one_row.finish("small.LN.0", top1=81.256)
    assert lines(one_row, "run", "table1", "--row", "small", "--arm", "LN") == [
        "small · LN · seed 0 SIGNATURE done top1 81.26"
    ]
    assert lines(one_row, "table", "table1")[-1] == (
        "Written: ROOT/results/table1.smoke.{md, csv, tex}"
    )


def test_logs_of_an_unstarted_run_name_the_jobs_folder(one_row):
    directory = one_row.given("small.LN.0")
    one_row.directory("small.DyT.0").prepare()
    assert lines(one_row, "logs", directory.run.signature, code=2) == [
        "matched: error: run SIGNATURE has no log: it has not started; what its job printed is in "
        "ROOT/runs/.jobs/41"
    ]
    other = one_row.directory("small.DyT.0").run.signature
    assert lines(one_row, "logs", other, code=2) == [
        "matched: error: run SIGNATURE has no log: it has not started"
    ]


def test_interruption_is_one_line(one_row, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("matched.recipes.load", interrupted)
    assert one_row.mistake("plan", "table1") == (
        "interrupted; run the same command again to continue"
    )


def test_system_error_without_a_file_is_raised(one_row, monkeypatch):
    def fail(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("matched.recipes.load", fail)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        one_row.cli("plan", "table1")


def test_memory_of_equal_runs_is_one_line(project, monkeypatch):
    """The total counts every part; a run that does not fit is named below."""
    plan = project.plan()
    parts = ("weights", "gradients", "optimizer", "gathered", "activations")
    one = MemoryEstimate(**{part: (i + 1) << 30 for i, part in enumerate(parts)})
    other = MemoryEstimate(**dict.fromkeys(parts, 1 << 20))
    estimates = [(planned, one if "LN" in planned.title else other) for planned in plan.runs[:5]]
    monkeypatch.setattr(preflight, "memory_estimates", lambda plan: estimates)
    monkeypatch.setattr(preflight, "gpu_shortages", lambda plan, cluster: [f"too big on {cluster}"])
    assert lines(project, "plan", "table1")[-5:-1] == [
        "memory of a process, estimated processes weights gradients optimizer gathered "
        "activations total",
        "small · LN · seed 0 and 2 more 1 1.0 GB 2.0 GB 3.0 GB 4.0 GB 5.0 GB 15.0 GB",
        "small · DyT · seed 0 and 1 more 1 1.0 MB 1.0 MB 1.0 MB 1.0 MB 1.0 MB 5.0 MB",
        "Does not fit: too big on local",
    ]


# --- commands that need one process of several


def test_run_of_another_rank_prints_nothing(one_row, monkeypatch):
    ran = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("matched.submission.run_in_process", ran.append)
    assert lines(one_row, "run", "table1", "--row", "small", "--arm", "DyT") == []
    ((planned,),) = (plan.runs for plan in ran)
    assert planned.title == "small · DyT · seed 0"


@pytest.mark.parametrize(("world_size", "started"), [(None, 0), ("1", 0), ("2", 1)])
def test_run_of_a_finished_cell_meets_its_other_ranks(one_row, monkeypatch, world_size, started):
    """They wait for rank 0 even if there is nothing to compute."""
    calls = []
    monkeypatch.setattr(cli_output, "run_shown", lambda plan, console: calls.append(plan))
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    one_row.finish("small.DyT.0", top1=80.0)
    (line,) = lines(one_row, "run", "table1", "--row", "small", "--arm", "DyT")
    assert line.endswith("done top1 80") and len(calls) == started


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_paused_and_restored(monkeypatch, enabled):
    states = [enabled]
    monkeypatch.setattr(cli_report.gc, "isenabled", lambda: states[-1])
    monkeypatch.setattr(cli_report.gc, "disable", lambda: states.append(False))
    monkeypatch.setattr(cli_report.gc, "enable", lambda: states.append(True))
    with pytest.raises(KeyError), cli_report.garbage_collection_paused():
        assert states[-1] is False
        raise KeyError
    assert states[-1] is enabled


def test_logs_follow_ends_when_the_run_failed_in_its_job(one_row, monkeypatch):
    """A failure of another submission does not count."""
    directory = one_row.begun("small.LN.0", "local", str(os.getpid()))
    (directory / "log.txt").write_text("first\n", encoding="utf-8")
    directory.write_failure(Failure(reason="old", token="t0"))
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        with (directory / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"line {len(naps)}\n")
        if len(naps) == 2:
            (directory / "failure.json").unlink()
            directory.write_failure(Failure(reason="new", token="t1"))

    monkeypatch.setattr("matched.cli.time.sleep", sleep)
    assert lines(one_row, "logs", directory.run.signature) == ["first"]
    told = lines(one_row, "logs", directory.run.signature, "--follow")
    assert told == ["first", "line 1", "line 2"] and naps == [1, 1]
