"""Defaults and constants of the harness, as the documentation and the docstrings give them."""

import inspect
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from matched import (
    Resources,
    TrainConfig,
    aggregation,
    audit,
    checks,
    claims,
    cli_output,
    config,
    data,
    data_files,
    entries,
    export,
    figure,
    files,
    formatting,
    job_packing,
    job_runner,
    job_status,
    lease,
    planning,
    recipes,
    run,
    run_execution,
    search,
    status,
    submission,
    table,
    task,
)
from matched.report import svg, verdicts, write_report
from matched.report.collect import collect
from matched.site import Local, Runs, Slurm

EXAMPLE = Path(__file__).parents[2] / "site.example.toml"


def defaults(kind):
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


def defaults_of_arguments(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize(("section", "kind"), [("local", Local), ("runs", Runs), ("slurm", Slurm)])
def test_example_of_site_toml_gives_the_defaults(section, kind):
    """Lines that say "default" have the value that a file without the line has."""
    text = EXAMPLE.read_text(encoding="utf-8")
    (part,) = re.findall(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in part.splitlines() if re.search(r"# default\b", line)]
    given = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines))
    assert given and given.items() <= defaults(kind).items()


def test_limits_of_site_toml():
    assert defaults(Slurm) == {
        "partition": "", "account": "", "qos": "", "constraint": "", "gpus_per_node": 8,
        "gpu_memory_gb": 0, "max_hours": 24, "grace_seconds": 120, "parallel": 64,
        "max_array": 1000, "memory": "per-node", "setup": (),
    }  # fmt: skip
    assert defaults(Local) == {"workers": 0, "threads": 1, "gpus": 0, "gpu_memory_gb": 0}
    assert defaults(Runs) == {
        "folder": "runs", "checkpoint_steps": 500, "checkpoint_minutes": 10,
        "async_checkpoints": False,
    }  # fmt: skip


def test_defaults_of_resources():
    found = defaults(Resources)
    assert {name: value for name, value in found.items() if value} == {
        "processes": 1,
        "cpus": 1,
        "memory_gb": 4,
        "runs_per_job": 1,
    }


def test_defaults_of_training_add_nothing_to_a_recipe():
    """No warm-up, clipping or EMA; AdamW and the cosine as in timm's recipes for ViT."""
    assert {name: value for name, value in defaults(TrainConfig).items() if value} == {
        "schedule": "cosine",
        "warmup_prefix": True,
        "decay_epochs": 30,
        "decay_factor": 0.1,
        "weight_decay": 0.05,
        "betas": (0.9, 0.999),
        "precision": "fp32",
        "eval_epochs": 1,
        "log_steps": 50,
    }


CONSTANTS = {
    checks: {"MAX_SHOWN": 80},
    cli_output: {"LISTED": 200, "SHOWN_TITLES": 8},
    config: {"PRECISIONS": ("fp32", "tf32", "bf16", "fp16", "bf16-params", "bf16-reduce")},
    data: {"ENTRY_POINT_GROUP": "matched.data"},  # pyproject.toml of the packages
    data_files: {
        "SYSTEM_NAMES": {
            "lost+found", "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot",
            "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
        },
        "MAX_POINTER_BYTES": 1024,
    },
    export: {"EVENT_FILES": "events.out.tfevents.*"},  # what TensorBoard looks for
    files: {"CHECKSUM_SUFFIX": ".sha256"},
    formatting: {"MISSING": "—", "NO_GAIN": "no gain", "TUNED": ("lr", "alpha0")},
    job_packing: {"LONG_HOURS": 24},
    job_runner: {"SUCCESS_TIMEOUT": 3600, "FAILURE_TIMEOUT": 20},
    job_status: {
        "PATIENCE": 60,
        "SLURM_SECONDS": 15,
        "SLURM_PATIENCE": 600,
        "SILENCE": 120,
        "OVER": {  # squeue(1), job state codes
            "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL",
            "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED",
        },
        "WAITING": {
            "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED",
        },
    },
    lease: {"FOLDER": "owners", "BEAT": 5, "PATIENCE": 60, "POLL": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("module", CONSTANTS, ids=lambda module: module.__name__)
def test_constants_of_the_harness(module):
    assert {name: getattr(module, name) for name in CONSTANTS[module]} == CONSTANTS[module]


SEARCHED = {"metrics": ("alpha0",)}
DEFAULTS = {
    aggregation.CellSummary: {"found": None},
    audit.AuditedPair: {"value": "", "reason": ""},
    claims.NotWorse: {"arm": "DyT", "than": ""},
    claims.Better: {"metrics": (), "within_spread": False},
    claims.Diverges: {},
    claims.Above: {"threshold": 0.0},
    claims.Falls: SEARCHED,
    claims.Constant: {**SEARCHED, "factor": 2.5},  # one step of the values that searches try
    claims.Claim: {"missing": ""},
    data.DataSource: {"check": None, "survey": None, "package": "", "refusal": ""},
    entries.Entry: {"search": None},
    figure.Source: {"arms": (), "need": ""},
    figure.NormShapes: {"layers": 4},
    figure.AlphaDuringTraining: {"depths": (0.25, 0.75)},
    figure.BestAlpha0: {"width": "network.width", "metric": "alpha0"},
    job_packing.PackedJob: {"after": (), "after_ids": ()},
    job_runner.JobRunner: {"gpus": None, "minutes": None},
    recipes.Recipe: {"extra_arms": (), "python_path": ()},
    search.Search: {"original": None, "minutes": None, "cpu_minutes": None},
    status.JobId: {"host": "", "identity": ""},
    status.JobRecord: {"submission": "", "cancelled": ""},
    status.JobStatus: {"detail": ""},
    status.Failure: {"kind": status.FailureKind.ERROR, "token": "", "root_run": ""},
    status.RunStatus: {
        "failure": None, "damage": "", "result": None, "progress": None, "job": None,
        "job_status": status.JobStatus(state=None), "started": False,
    },
    status.ExecutionResult: {"reason": ""},
    table.Metric: {"unit": ""},
    table.Arm: {"norm": None},
    table.Scale: {"note": "", "metrics": (), "arm_norms": None},
    table.Cell: {"value": ""},
    table.Table: {"title": ""},
    task.Context: {  # one process without data-loading processes, and Runs and Resources
        "rank": 0, "world_size": 1, "local_rank": 0, "threads": 1, "num_workers": 0,
        "checkpoint_steps": 500, "checkpoint_minutes": 10, "async_checkpoints": False,
        "shard": False, "shard_degree": 0, "check_ownership": task.Context.check_ownership,
    },
    task.Outcome: {"diverged": False},
    verdicts.Part: {"more_seeds": None, "at_least": False},
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_defaults_of_fields(kind):
    assert defaults(kind) == DEFAULTS[kind]


DEFAULTS_OF_ARGUMENTS = {
    checks.check_counts: {"minimum": 1},
    data.resolve_paths: {"survey": False},
    data_files.refuse_pointers: {"most": 1000},
    formatting.format_number: {"reference": None},
    job_status.job_statuses: {"queue": None, "finished": ()},
    planning.make_plan: {"only": None},
    planning.Plan.refreshed: {"queue": None},
    recipes.Recipe.label: {"scale": None},
    run.json_value: {"path": "config", "ints_as_floats": False},
    run.derive_run: {"seed": None},
    run_execution.execute: {"shard": False, "shard_degree": 0, "code": None},
    submission.submit: {"snapshot": False},
    write_report: {"arms": (), "changes": (), "page": True},
    collect: {"scale": None, "names": (), "arms": (), "changes": (), "pictures": None},
    svg.line_chart: {"points": False},
    svg.ticks: {"count": 4, "whole": False},
}


@pytest.mark.parametrize("function", DEFAULTS_OF_ARGUMENTS, ids=lambda f: f.__qualname__)
def test_defaults_of_arguments(function):
    assert defaults_of_arguments(function) == DEFAULTS_OF_ARGUMENTS[function]
