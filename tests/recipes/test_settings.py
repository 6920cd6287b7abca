"""docs/SETTINGS.md and the recipes at paper scale say the same, setting by setting.

A row whose first column is a config field in backticks is checked, for all runs that its column
stands for: those that the column's header names in backticks, else those of the "Runs:" line above
the table. A run is called ``table/row/arm``, what it needs ``table/pretrained/row/arm``.
"""

import ast
import math
import re
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from matched import recipes

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "SETTINGS.md"

ELSEWHERE = {"gpus"}
"""What rows may name besides fields of the config: what the recipe asks of the machine."""


@cache
def runs():
    """Address → (config, resources) of every vision run of the recipes, at paper scale."""
    for cached in (recipes.root, recipes.numbers, recipes.available):
        cached.cache_clear()  # another test's project may be in them
    found = {}
    for name in recipes.available():
        recipe = recipes.load(name)
        scale = recipe.scale("paper")
        for cell in recipe.table.cells(scale):
            own = scale.others.get(cell.row, scale.resources)
            found[f"{name}/{cell.row}/{cell.arm}"] = (cell.run.config, own)
            for need, run in cell.run.needs.items():
                asks = scale.others.get(f"{cell.row}/{need}", scale.resources)
                found[f"{name}/{need}/{cell.row}/{cell.arm}"] = (run.config, asks)
    return {a: v for a, v in found.items() if type(v[0]).__module__ == "dyt_vision.config"}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))


def named(pattern):
    """The addresses that a pattern stands for; arms and rows may be left out."""
    return [a for a in runs() if fnmatchcase(a, pattern) or fnmatchcase(a, f"{pattern}/*")]


def read(text):
    """[(field, patterns, cell)] of all rows that are to be checked."""
    found, above, header = [], [], None
    for line in text.splitlines():
        if line.startswith("Runs:"):
            above = re.findall(r"`([^`]+)`", line)
        if not line.startswith("|"):
            above, header = ([] if line.startswith("#") else above), None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
            continue
        name = re.fullmatch(r"`(\w+)`", cells[0])
        if not name:
            continue
        assert len(cells) == len(header), f"{line}\nhas {len(cells)} cells, not {len(header)}"
        for head, cell in zip(header[1:-1], cells[1:-1], strict=True):
            found.append((name[1], tuple(re.findall(r"`([^`]+)`", head) or above), cell))
    return found


def value(field, cell):
    """What a cell says, as a config would hold it; the rule after " = " has to give the same."""
    cell, _, rule = cell.partition(" = ")
    if field == "model_args":
        pairs = [] if cell == "none" else [pair.partition(": ") for pair in cell.split(", ")]
        return tuple((name, literal(text)) for name, _, text in pairs)
    if rule:
        product = eval(rule.replace("×", "*"), {"__builtins__": {}})
        assert math.isclose(product, literal(cell)), f"{field}: {cell} = {rule} is {product}"
    return literal(cell)


def literal(text):
    known = {"none": None, "yes": True, "no": False, "empty": ""}
    if text in known:
        return known[text]
    if text.startswith("("):  # the crops' aspects are fractions
        text = re.sub(r"(\d+)/(\d+)", lambda m: str(int(m[1]) / int(m[2])), text)
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def same(written, actual):
    if isinstance(actual, tuple) and isinstance(written, tuple):
        return len(written) == len(actual) and all(map(same, written, actual))
    if all(type(v) in (int, float) for v in (written, actual)):
        return math.isclose(written, actual, rel_tol=1e-9)
    return written == actual and type(written) is type(actual)


def held(field, address):
    config, resources = runs()[address]
    if field in ELSEWHERE:
        return getattr(resources, field)
    if field == "norm":
        return str(config.norm)
    assert field in {f.name for f in fields(config)}, f"{address} has no setting {field!r}"
    return getattr(config, field)


def mistakes(text):
    """One line for each cell that says something else than a run that it stands for."""
    found = []
    for field, patterns, cell in read(text):
        assert patterns, f"the row of {field} stands below no line of runs and no header with them"
        for pattern in patterns:
            addresses = named(pattern)
            assert addresses, f"{pattern} (row {field}) is no vision run at paper scale"
            found += [
                f"{field} of {a}: {cell} in the text, {held(field, a)} in the recipe"
                for a in addresses
                if not same(value(field, cell), held(field, a))
            ]
    return found


def page(row, run="table1/vit_b/LN"):
    """A page of one row."""
    return f"Runs: `{run}`\n\n| setting | value here | source |\n|---|---|---|\n{row}"


def idle(config):
    """Fields that mean nothing, given the others: the page need not name them."""
    off = {"min_lr"} if config.schedule == "step" else {"decay_epochs", "decay_factor"}
    sgd = type(config).__name__ == "Probing" or getattr(config, "optimizer", "") == "sgd"
    off |= {"betas"} if sgd else {"momentum"}
    if not getattr(config, "mixup", 0) and not getattr(config, "cutmix", 0):
        off |= {"mixup_prob", "mixup_switch"}
    return off


def unwritten(text):
    """One line for each setting of a run that no row gives."""
    written = {(f, a) for f, patterns, _ in read(text) for p in patterns for a in named(p)}
    return [
        f"{field.name} of {address}"
        for address, (config, _) in runs().items()
        for field in fields(config)
        if field.name not in idle(config) and (field.name, address) not in written
    ]


def test_every_number_is_the_recipes():
    assert not mistakes(PAGE.read_text())


def test_every_setting_of_every_run_is_written_down():
    assert not unwritten(PAGE.read_text())


def test_the_runs_are_those_of_the_vision_tables():
    assert len({a.split("/")[0] for a in runs()}) >= 10
    assert all(is_dataclass(config) for config, _ in runs().values())


@pytest.mark.parametrize(
    "row",
    [
        "| `lr` | 4.1e-3 | |",
        "| `epochs` | 301 | |",
        "| `betas` | (0.9, 0.95) | |",
        "| `betas` | (0.9, 0.999, 0.9) | |",
        "| `precision` | fp16 | |",
        "| `clip_norm` | 1.0 | |",
        "| `convert_batch_norm` | yes | |",
        "| `model_args` | global_pool: token | |",
        "| `gpus` | 32 | |",
    ],
)
def test_another_value_is_a_mistake(row):
    assert len(mistakes(page(row))) == 1


def test_another_number_in_a_recipe_is_a_mistake(monkeypatch):
    """A row is compared with what the recipe resolves to, not with the defaults."""
    text = PAGE.read_text()
    config, resources = runs()["table1/vit_l/LN"]
    other = {**runs(), "table1/vit_l/LN": (type(config)(**{**vars(config), "lr": 5e-3}), resources)}
    monkeypatch.setattr(f"{__name__}.runs", lambda: other)
    assert "lr of table1/vit_l/LN: 4e-3 in the text, 0.005 in the recipe" in mistakes(text)


@pytest.mark.parametrize(
    "text, reason",
    [
        (page("| `lr` | 1 | |", run="table1/vit_x"), "is no vision run"),
        (page("| `rate` | 1 | |"), "no setting"),
        (page("| `lr` | 1 | 2 | |"), "cells"),
        (page("| `lr` | 4e-3 = 2e-3 × 3 | |"), "4e-3 = 2e-3 × 3 is"),
        (page("| `lr` | 1 | |").partition("\n")[2], "below no line of runs"),
    ],
)
def test_a_row_that_cannot_be_checked_is_refused(text, reason):
    with pytest.raises(AssertionError, match=reason):
        mistakes(text)


def test_the_page_names_no_place_on_a_machine():
    assert not re.search(r"/(tmp|work|home)/", PAGE.read_text())
