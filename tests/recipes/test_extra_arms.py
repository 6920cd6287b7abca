"""Derf can be added to every table of norms that lacks it, at every scale, matched."""

import pytest

from matched import extra_arms, recipes

ARMS_ARE_SIZES = ("table12", "iclr-table7", "iclr-table10")


@pytest.mark.parametrize("name", recipes.available())
def test_derf_can_be_added_to_every_table(name):
    recipe = recipes.load(name)
    if "Derf" in [arm.name for arm in recipe.table.arms]:
        assert name == "table7"  # its arms are measured by one run
        return
    if name in ARMS_ARE_SIZES:
        with pytest.raises(extra_arms.NotApplicableError, match="no arm DyT"):
            extra_arms.with_arms(recipe, recipe.table.scales[0], ["Derf"])
        return
    for scale in recipe.table.scales:
        with_derf, changed = extra_arms.with_arms(recipe, scale, ["Derf"])
        arms = {cell.arm for cell in with_derf.table.cells(changed)}
        assert arms - {cell.arm for cell in recipe.table.cells(scale)} == {"Derf"}
