"""Cells and runs that options of the command line select."""

from argparse import Namespace
from types import SimpleNamespace

import pytest

from matched.cli_options import selected_cells, selected_runs


def cell(row, arm, seed, value=""):
    run = f"{row}.{arm}.{seed}.{value}"
    return SimpleNamespace(row=row, arm=arm, seed=seed, value=value, run=run)


CELLS = [
    *(cell("vit_b", "LN", seed) for seed in (0, 1)),
    *(cell("vit_b", "DyT", seed, value) for seed in (0, 1) for value in ("0.5", "1")),
    cell("vit_l", "LN", 0),
    cell("vit_l", "BN", 2),
]


def options(row=None, arm=None, value=None, seed=None):
    return Namespace(table="table1", row=row, arm=arm, value=value, seed=seed)


def names(cells):
    return [cell.run for cell in cells]


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ({}, names(CELLS)),
        ({"row": "VIT_L"}, ["vit_l.LN.0.", "vit_l.BN.2."]),
        ({"arm": "ln"}, ["vit_b.LN.0.", "vit_b.LN.1.", "vit_l.LN.0."]),
        ({"row": "vit_b", "arm": "LN", "seed": 1}, ["vit_b.LN.1."]),
        ({"value": "0.50"}, ["vit_b.DyT.0.0.5", "vit_b.DyT.1.0.5"]),
        ({"value": "1", "seed": 0}, ["vit_b.DyT.0.1"]),
        ({"seed": 2}, ["vit_l.BN.2."]),
    ],
    ids=str,
)
def test_selected_cells_have_every_option(selection, selected):
    assert names(selected_cells(options(**selection), CELLS)) == selected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"row": "vit"}, "unknown row of table1: 'vit'; known, nearest first: vit_l, vit_b"),
        # Arms of that row only.
        (
            {"row": "vit_l", "arm": "DyT"},
            "unknown arm of table1: 'DyT'; known, nearest first: LN, BN",
        ),
        ({"value": "2"}, "unknown value 2; known: 0.5, 1"),
        (
            {"arm": "LN", "value": "1"},
            "unknown value 1; known: none, because this cell has no search",
        ),
        ({"row": "vit_b", "seed": 2}, "unknown seed 2; known: 0, 1"),
        ({"seed": 9}, "unknown seed 9; known: 0, 1, 2"),
    ],
    ids=str,
)
def test_selection_of_nothing_names_what_there_is(selection, message):
    with pytest.raises(ValueError) as refusal:
        selected_cells(options(**selection), CELLS)
    assert str(refusal.value) == message


def test_selected_runs_are_all_or_those_of_the_cells():
    """Runs that cells need belong to none of them."""
    runs = [SimpleNamespace(run=run) for run in ["a need", *names(CELLS)]]
    assert selected_runs(options(), CELLS, runs) == runs
    for selection in ({"row": "vit_l"}, {"arm": "BN"}, {"value": "1"}, {"seed": 0}):
        given = options(**selection)
        selected = [planned.run for planned in selected_runs(given, CELLS, runs)]
        assert selected == names(selected_cells(given, CELLS)) != []
