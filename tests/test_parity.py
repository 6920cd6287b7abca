"""Parity: the checkouts and claims that the documentation refers to exist, and all claims hold."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path
    for pattern in ("README.md", "shared/*/README.md", "packages/*/README.md", "docs/*.md")
    for path in sorted(ROOT.glob(pattern))
]
RESULTS = json.loads((ROOT / "parity/results/parity.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run():
    """The module of the command, which imports no torch."""
    specification = importlib.util.spec_from_file_location("parity_run", ROOT / "parity/run.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def variables(text):
    """Return the names of checkouts in `make parity NAME=…`, in lower case."""
    commands = re.findall(r"make parity((?:[ \\\n]+[A-Z]+=[^\s`]+)+)", text)
    return {name.lower() for found in commands for name in re.findall(r"([A-Z]+)=", found)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_parity_claims_of_pages_were_computed_and_hold(page, run):
    for name in variables(page.read_text(encoding="utf-8")) - set(run.COMPANIONS.values()):
        assert name in run.MODULES
        assert RESULTS[name]["claims"]


def test_parity_results_have_every_module_and_hold(run):
    assert RESULTS.keys() == run.MODULES.keys()
    for name, result in RESULTS.items():
        assert all(claim["holds"] for claim in result["claims"]), name
        for module in run.MODULES[name]:
            assert (ROOT / f"parity/{module}.py").is_file()
    assert run.to_markdown(RESULTS) == (ROOT / "parity/results/parity.md").read_text("utf-8")


def test_parity_pages_name_every_checkout(run):
    known = {*run.MODULES, *run.COMPANIONS.values()}
    assert variables((ROOT / "parity/README.md").read_text(encoding="utf-8")) == known
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"^CHECKOUTS := ((?:.|\\\n)*?)[^\\]$", makefile, flags=re.M)
    assert set(listed[0].split()[2:]) - {"\\"} == known


@pytest.mark.parametrize(
    "package", ["vision-mae-dino", "dit", "wav2vec", "hyenadna", "caduceus", "llama"]
)
def test_readme_of_package_refers_to_parity(package):
    assert variables((ROOT / "packages" / package / "README.md").read_text(encoding="utf-8"))
