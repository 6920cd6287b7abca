"""The claims of recipes/claims.py: every table, row and arm that they name has a recipe."""

from pathlib import Path

import pytest

from matched import recipes
from matched.claims import Above, Better, Diverges, NotWorse

ROOT = Path(__file__).parents[2]
CLAIMS = recipes.load_constant(ROOT / "recipes/claims.py", "CLAIMS", tuple)


def cells(test):
    if isinstance(test, Better):
        return [key for pair in test.pairs for key in pair]
    return list(test.cells) if isinstance(test, (Diverges, Above)) else []


@pytest.mark.parametrize(
    "claim", [c for c in CLAIMS if c.test], ids=lambda claim: claim.statement[:40]
)
def test_claims_name_cells_that_recipes_have(claim):
    tables = {key.table for key in cells(claim.test)}
    tables |= set(getattr(claim.test, "tables", ()))
    for name in tables:
        recipe = recipes.load(str(ROOT / name) if name.endswith(".py") else name)
        for scale in recipe.table.scales:
            known = {(cell.row, cell.arm) for cell in recipe.table.cells(scale)}
            named = {(key.row, key.arm) for key in cells(claim.test) if key.table == name}
            assert named <= known
            metrics = {metric.key for metric in recipe.metrics(scale)}
            assert set(getattr(claim.test, "metrics", ())) <= metrics


def test_claims_cover_every_domain():
    parity = [c.test for c in CLAIMS if isinstance(c.test, NotWorse) and not c.test.than]
    tables = {name for test in parity for name in test.tables}
    assert {f"{prefix}table{n}" for prefix in ("", "iclr-") for n in range(1, 7)} == tables
