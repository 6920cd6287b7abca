"""Fixtures: a temporary project for each test, and parts of it."""

from __future__ import annotations

import os
import sys

import pytest

from matched import Resources, data, projects, provenance, recipes, run_directory, site
from matched.job_runner import JobRunner

from .host_conditions import hidepid, read_only
from .project import ONE_ROW, STAND_INS, Project
from .search_projects import grid, tuned

__all__ = ["grid", "hidepid", "read_only", "tuned"]  # fixtures


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    made = Project(tmp_path, capsys)
    for name, value in made.environment.items():
        if not name.startswith("TINY"):
            monkeypatch.setenv(name, value)
    for name in ("MATCHED_SITE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_JOB_ID", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(STAND_INS)
    # A recipe that is written twice within a second would be loaded from its bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    _forget()
    yield made
    made.end()
    _forget()


def _forget() -> None:
    for cached in (
        projects.root,
        recipes.paper_numbers,
        recipes.available,
        data.registered_sources,
    ):
        cached.cache_clear()


@pytest.fixture
def one_row(project):
    project.recipe(ONE_ROW)
    return project


@pytest.fixture
def pack(one_row, monkeypatch):
    """Return a function that makes a job of all runs, to be computed in this process."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the job changes them; this restores them
    monkeypatch.setattr(provenance, "environment", dict)  # both would import torch
    monkeypatch.setattr(provenance, "hardware", lambda: "a CPU")

    def made(token: str = "t1", **more: int) -> JobRunner:
        runs = [planned.run for planned in one_row.plan().runs]
        return JobRunner(
            runs=runs,
            resources=[Resources(minutes=1)] * len(runs),
            site=site.read(one_row.root / site.FILE),
            threads=1,
            token=token,
            **more,
        )

    return made


@pytest.fixture
def parsed(monkeypatch):
    """Return the names of the run directories' files that are parsed from now on."""
    names = []
    real = run_directory.read_json

    def read_json(path, *keys):
        names.append(os.path.basename(path))
        return real(path, *keys)

    monkeypatch.setattr(run_directory, "read_json", read_json)
    return names
