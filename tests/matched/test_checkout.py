"""Renamed and copied checkouts: refusal to run the code of two checkouts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import matched
from matched import checkout

ROOT = Path(__file__).parents[2]
MAKES_OWN = re.compile(r"make(\[\d+\])?: ")
"""Lines of make itself, with its level if the tests were started by make."""


def with_package(root, folder):
    """Create an empty package in a checkout."""
    package = root / folder
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return package


def test_check_packages_accepts_this_checkout():
    checkout.check_packages(Path(matched.__file__).parents[4])


def test_check_packages_accepts_projects_without_packages(tmp_path):
    checkout.check_packages(tmp_path)


def test_check_packages_ignores_packages_that_are_not_installed(tmp_path):
    with_package(tmp_path, "packages/own/src/a_package_of_nobody")
    checkout.check_packages(tmp_path)


@pytest.mark.parametrize("folder", ["shared/matched/src/matched", "packages/dit/src/dyt_dit"])
def test_matched_refuses_packages_of_another_checkout(one_row, folder):
    with_package(one_row.root, folder)
    message = one_row.mistake("status", "table1")
    assert f"{Path(folder).name} is imported from /" in message
    assert f"but {one_row.root} has its own" in message
    assert "rm -rf .venv && make setup" in message


@pytest.mark.parametrize("command", ["plan table1", "report", "claims", "figure fig1"])
def test_every_command_refuses_packages_of_another_checkout(one_row, command):
    package = with_package(one_row.root, "shared/matched/src/matched")
    assert one_row.mistake(*command.split()) == (
        f"matched is imported from {Path(matched.__file__).parent}, but {one_row.root} has its "
        "own; run the `matched` of this checkout's environment, and if the checkout was copied or "
        "renamed, create that again: rm -rf .venv && make setup"
    )
    (package / "__init__.py").unlink()
    (package / "__init__.py").symlink_to(matched.__file__)
    checkout.check_packages(one_row.root)


@pytest.mark.parametrize("place", ["renamed", "copied"])
def test_make_refuses_an_environment_of_another_place(tmp_path, place):
    checkout_folder = tmp_path / "checkout"
    (checkout_folder / ".venv").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", checkout_folder)
    ready = checkout_folder / ".venv" / ".ready"

    def make():
        return subprocess.run(
            ["make", "own-environment"], cwd=checkout_folder, capture_output=True, text=True
        )

    assert make().returncode == 0, "no environment yet"
    original = tmp_path / "original" / ".venv"
    if place == "copied":
        original.mkdir(parents=True)
    ready.write_text(f"{original}\n", encoding="utf-8")
    refused = make()
    assert refused.returncode == 2
    (line,) = (line for line in refused.stderr.splitlines() if not MAKES_OWN.match(line))
    assert line.startswith(f"error: .venv was created as {original}, and this checkout was renamed")
    assert line.endswith("create it again: rm -rf .venv && make setup")
    ready.write_text(f"{checkout_folder / '.venv'}\n", encoding="utf-8")
    assert make().returncode == 0
