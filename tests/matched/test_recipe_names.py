"""Names of recipes: in print, of files of results, and on the command line."""

from dataclasses import replace

from matched import Metric, recipes
from matched.recipes import Recipe


def test_recipe_of_a_paper_has_the_papers_names(project):
    recipe = recipes.load("table1")
    (scale,) = recipe.table.scales
    assert (recipe.title, recipe.caption) == ("Venue 2025, Table 1", "Two models & two norms")
    top1 = Metric(key="top1", label="top-1", unit="%", direction="higher")
    assert recipe.metrics(scale) == recipe.paper.metrics == (top1,)
    loss = Metric(key="loss", label="loss", direction="lower")
    assert recipe.metrics(replace(scale, metrics=(loss,))) == (loss,)
    assert recipe.paper.axes == {}
    assert recipe.printed_cell("small", "DyT") == {"top1": 82.5}
    assert recipe.printed_cell("small", "BN") == {}
    labelled = replace(scale, labels={"small": "Tiny", "DyT": "Tanh"})
    assert [recipe.label("small", at) for at in (None, scale, labelled)] == [
        "Small_1",
        "Small_1",
        "Tiny",
    ]
    assert recipe.label("large", labelled) == "Large"
    assert [recipe.arm_label(arm, labelled) for arm in ("LN", "DyT")] == ["LN", "Tanh (DyT)"]


def test_own_recipe_has_the_names_of_its_table_and_file(project, monkeypatch):
    monkeypatch.chdir(project.root)
    table = recipes.load("table1").table
    (scale,) = table.scales
    path = project.root / "mine" / "my table.py"
    own = Recipe(name="my_table", path=path, table=table, paper=None, project=project.root)
    assert (own.title, own.caption) == ("my_table", "Own table, my table.py")
    assert (own.label("small"), own.printed_cell("small", "LN"), own.metrics(scale)) == (
        "small",
        {},
        (),
    )
    named = replace(own, table=replace(table, title="Norms", labels={"small": "Tiny"}))
    assert (named.title, named.label("small"), named.label("large")) == ("Norms", "Tiny", "large")
    assert own.arguments(scale) == "'mine/my table.py' --scale smoke"


def test_changes_and_added_arms_are_part_of_names_and_arguments(project):
    recipe = recipes.load("table1")
    (scale,) = recipe.table.scales
    assert recipe.results_name(scale) == "table1.smoke"
    assert recipe.arguments(scale) == "table1 --scale smoke"
    changed = replace(
        recipe, changes={"lr": 0.001, "betas": (0.9, 0.95)}, extra_arms=("Derf", "RMS")
    )
    assert changed.arguments(scale) == (
        "table1 --scale smoke --with Derf --with RMS --set lr=0.001 --set 'betas=(0.9, 0.95)'"
    )
    # Other characters than those of file names become "_", and a hash keeps the name unique.
    assert changed.results_name(scale) == (
        "table1+Derf+RMS.smoke.lr=0.001,betas=_0.9,_0.95_-0bc31076"
    )
    for length, name in ((74, "x" * 74), (75, "x" * 74 + "-5151c60f")):
        long = replace(recipe, changes={"model": "x" * length})
        assert long.results_name(scale) == f"table1.smoke.model={name}"
