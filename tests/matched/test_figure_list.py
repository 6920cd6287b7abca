"""Names of figures, and the recipes that they need."""

import pytest

from matched.report import figure_list

FIGURES = '''
"""Figures of the tests."""

from matched.figure import BlockDiagram, LossCurves, Source

FIGURES = {
    1: BlockDiagram(caption="A block"),
    12: LossCurves(
        caption="Losses",
        sources=(
            Source(title="A", recipe="table1", row="small"),
            Source(title="B", recipe="recipes/analysis.py", row="small"),
            Source(title="C", recipe="table1", row="large"),
        ),
    ),
}
'''


@pytest.fixture
def figures(project):
    for paper in ("first", "second"):
        project.write(f"recipes/{paper}/figures.py", FIGURES.lstrip())
    return project.root


def test_figures_are_named_with_the_papers_prefix(figures):
    known = figure_list.available(figures)
    assert list(known) == ["fig1", "fig12", "early-fig1", "early-fig12"]
    assert known["early-fig1"].caption == "A block"
    assert figure_list.find(figures, "Early-FIG12").caption == "Losses"
    with pytest.raises(ValueError) as error:
        figure_list.find(figures, "fig2")
    assert str(error.value).startswith("unknown figure: 'fig2'; known, nearest first: fig1")


def test_figures_need_each_recipe_once(figures):
    known = figure_list.available(figures)
    assert figure_list.needed_recipes(known["fig12"]) == ["table1", "recipes/analysis.py"]
    assert figure_list.needed_recipes(known["fig1"]) == []
    assert figure_list.own_recipes(figures) == ["recipes/analysis.py"]


def test_no_figures_without_papers_or_without_a_file(project, tmp_path_factory):
    assert figure_list.available(project.root) == {}
    assert figure_list.available(tmp_path_factory.mktemp("elsewhere")) == {}
