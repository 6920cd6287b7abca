"""Folders of projects: by MATCHED_ROOT, the recipe's file and the current folder, in this order."""

import pytest

from matched import projects


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The projects "one" and "other", and a folder "plain" in no project; no MATCHED_ROOT."""
    for name in ("one", "other"):
        (tmp_path / name / "recipes" / "paper").mkdir(parents=True)
        (tmp_path / name / "recipes" / "paper.toml").write_text("")
    (tmp_path / "plain").mkdir()
    monkeypatch.delenv("MATCHED_ROOT", raising=False)
    monkeypatch.chdir(tmp_path / "plain")
    projects.root.cache_clear()
    yield tmp_path
    projects.root.cache_clear()


def test_enclosing_project_is_the_first_upwards(folders):
    one = folders / "one"
    assert projects.has_papers(one) and not projects.has_papers(one / "recipes")
    assert projects.enclosing(one / "recipes" / "paper") == projects.enclosing(one) == one
    assert projects.enclosing(folders / "plain") is None


def test_root_refuses_a_folder_outside_of_projects(folders):
    with pytest.raises(ValueError) as error:
        projects.root()
    assert str(error.value) == (
        f"no recipes/paper.toml in {folders}/plain or above it; run this inside the repository, or "
        "set MATCHED_ROOT to it"
    )


@pytest.mark.parametrize(
    ("variable", "here", "recipe", "folder", "current"),
    [
        ("one/recipes", "other", "plain", "one", "one"),
        ("", "other/recipes", "one/recipes/paper", "one", "other"),
        ("", "other", "plain", "other", "other"),
        ("", "plain", "plain", "plain", "plain"),
    ],
)
def test_folder_of_a_recipe_and_of_commands_without_one(
    folders, monkeypatch, variable, here, recipe, folder, current
):
    if variable:
        monkeypatch.setenv("MATCHED_ROOT", f"../{variable}")
    monkeypatch.chdir(folders / here)
    found = projects.folder_of(folders / recipe / "my_table.py").resolve()
    assert found == folders / folder
    assert projects.current().resolve() == folders / current
