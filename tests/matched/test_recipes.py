"""Recipes: lookup by name, loading and error messages; and the recipes of this repository."""

import re
from pathlib import Path

import pytest

from matched import projects, recipes

ROOT = Path(__file__).parents[2]


def test_recipe_names_start_with_the_papers_prefix(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))", "second/table01")
    assert project.cli("list").split() == ["table1", "early-table1"]
    assert project.plan("early-table1").recipe.paper.title == "Earlier 2025, Table 1"
    assert project.plan("table1").recipe.paper.title == "Venue 2025, Table 1"


def test_names_of_recipes_scales_and_clusters_ignore_case(project):
    assert "of 8 runs" in project.cli("plan", "TABLE1", "--scale", "Smoke", "--cluster", "LOCAL")


def test_available_lists_only_numbered_table_files(project):
    project.write("recipes/first/tables.py", "")
    project.write("recipes/first/table_shared.py", "")
    assert project.cli("list").split() == ["table1"]


def test_unknown_table_in_a_project_without_recipes(project):
    (project.root / "recipes/first/table01.py").unlink()
    line = project.mistake("plan", "table1")
    assert line == "unknown table: 'table1'; known, nearest first: none"


def cell(row="small", arm="LN", seed="0"):
    return ["--row", row, "--arm", arm, "--seed", seed]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "tabel1"], "unknown table: 'tabel1'; known, nearest first: table1, early-table2"),
        (["plan", "early-table1"], "unknown table: 'early-table1'; known, nearest first: early-ta"),
        (["plan", "table1", "--scale", "papr"], "unknown scale of table1: 'papr'; known, nearest"),
        (["plan", "table1", "--cluster", "slrum"], "first: slurm,"),
        (["submit", "table1", "--cluster", "lcoal"], "unknown cluster: 'lcoal'; known, nearest"),
        (["retry", "table1", "--cluster", "lcoal"], "first: local,"),
        (["run", "table1", *cell(row="smal")], "unknown row of table1: 'smal'; known, nearest fir"),
        (["run", "table1", *cell(arm="Dyt2")], "unknown arm of table1: 'Dyt2'; known, nearest fi"),
        (["run", "table1", *cell(seed="7")], "unknown seed 7; known: 0, 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_unknown_name_lists_the_known_names(project, arguments, message):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))", "second/table02")
    project.write("recipes/paper.toml", PAPER_WITH_TWO.replace("@", "table2"))
    assert message in project.mistake(*arguments)
    assert not (project.root / "runs").exists()


PAPER_WITH_TWO = """
[first]
venue = "Venue"
prefix = ""
[first.table1]
caption = "One"
metrics = []
[first.table1.rows.small]
label = "Small"
[first.table1.rows.large]
label = "Large"
[second]
venue = "Earlier"
prefix = "early-"
[second.@]
caption = "Two"
metrics = []
[second.@.rows.small]
label = "Small"
"""


def test_load_refuses_a_recipe_that_ends_the_program(project):
    path = project.recipe("import sys\nsys.exit(3)")
    assert project.mistake("plan", "table1").startswith(f"{path}, line ")


def test_load_refuses_a_recipe_without_a_table(project):
    path = project.recipe("LIST = []")
    line = project.mistake("plan", "table1")
    assert line == f"{path} defines no TABLE; a recipe ends with TABLE = Table(...)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X = Config(lrr=1)", "TypeError: Config.__init__() got an unexpected keyword argument"),
        ("X = (", "SyntaxError: '(' was never closed"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("X = Run(task='tiny', config=Config())", "task 'tiny' is not of the form"),
    ],
    ids=str,
)
def test_load_names_the_line_of_an_import_error(project, text, message):
    path = project.recipe(f"{text}\nTABLE = None")
    lines = path.read_text(encoding="utf-8").splitlines()
    line = project.mistake("plan", "table1")
    assert line.startswith(f"{path}, line {lines.index(text) + 1}: {message}")


@pytest.mark.parametrize("row", ["middle", "SMALL"])
def test_load_refuses_a_row_that_paper_toml_lacks(project, row):
    project.recipe(f"TABLE = Table(arms=ARMS, scales=(scale({row}=SMALL),))")
    line = project.mistake("plan", "table1")
    file = f"{project.root}/recipes/first/table01.py"
    assert line.startswith(f"unknown row of table1 in {file}: '{row}'; known, nearest first: ")
    assert {"small", "large"} == set(line.rpartition(": ")[2].split(", "))


def test_load_refuses_a_table_that_paper_toml_lacks(project):
    path = project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))", "first/table07")
    assert project.mistake("plan", "table7") == f"paper.toml has no [first.table7] for {path}"


class TestImportOfAnotherRecipe:
    TABLE = "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=BASE),))"

    def test_a_recipe_may_import_another(self, project):
        project.recipe("BASE = SMALL", name="first/shared")
        project.recipe(f"from recipes.first.shared import BASE\n{self.TABLE}")
        assert "small · DyT · seed 0" in project.cli("plan", "table1")

    def test_the_import_is_repeated_at_every_load(self, project):
        project.recipe("BASE = SMALL", name="first/shared")
        path = project.recipe(f"from recipes.first.shared import BASE\n{self.TABLE}")
        recipes.load("table1")
        (path.parent / "shared.py").write_text("OTHER = 1\n", encoding="utf-8")
        with pytest.raises(ValueError, match="cannot import name 'BASE'"):
            recipes.load("table1")

    def test_an_error_in_the_other_recipe_names_its_line(self, project):
        text = "OTHER = 1\n\nBASE = Run(task='nowhere', config=SMALL.config)"
        wrong = project.recipe(text, "first/shared")
        project.recipe(f"from recipes.first.shared import BASE\n{self.TABLE}")
        line = project.mistake("plan", "table1")
        number = len(wrong.read_text(encoding="utf-8").splitlines())
        assert line.startswith(f"{wrong}, line {number}: task 'nowhere' is not of the form")

    def test_a_syntax_error_in_the_other_recipe_names_its_line(self, project):
        wrong = project.recipe("OTHER = 1\n\nBASE = (", "first/shared")
        project.recipe(f"from recipes.first.shared import BASE\n{self.TABLE}")
        number = len(wrong.read_text(encoding="utf-8").splitlines())
        line = project.mistake("plan", "table1")
        place = f"shared.py, line {number}"
        assert line == f"{wrong.parent}/{place}: SyntaxError: '(' was never closed ({place})"


class TestScalePages:
    """Scales of a table in a page of their own: recipes/<paper>/<scale>/tableNN.py."""

    MINI = "SCALE = scale(name='mini', seeds=(0,), small=SMALL)"

    def test_scale_page_joins_the_table(self, project):
        project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))")
        project.recipe(self.MINI, "first/mini/table01")
        assert [scale.name for scale in recipes.load("table1").table.scales] == ["mini", "smoke"]

    def test_scale_page_may_import_the_table(self, project):
        project.recipe("BASE = SMALL\nTABLE = Table(arms=ARMS, scales=(scale(small=BASE),))")
        page = f"from recipes.first.table01 import BASE\n{self.MINI.replace('=SMALL', '=BASE')}"
        project.recipe(page, "first/mini/table01")
        assert "small · DyT · seed 0" in project.cli("plan", "table1", "--scale", "mini")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("OTHER = 1", "defines no SCALE; a recipe ends with SCALE = Scale(...)"),
            ("SCALE = scale(small=SMALL)", "SCALE is the scale 'smoke'; expected 'mini'"),
        ],
    )
    def test_scale_page_without_its_scale_is_refused(self, project, text, message):
        project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))")
        page = project.recipe(text, "first/mini/table01")
        line = project.mistake("plan", "table1")
        assert line.startswith(str(page)) and message in line

    def test_scale_in_table_and_page_is_refused(self, project):
        path = project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))")
        project.recipe("SCALE = scale(small=SMALL)", "first/smoke/table01")
        assert project.mistake("plan", "table1").startswith(f"{path}: scales ['smoke', 'smoke']")


def test_an_invalid_paper_toml_is_refused_by_name(project):
    path = project.write("recipes/paper.toml", "[first\n")
    assert project.mistake("list").startswith(f"{path}: ")


def test_root_is_not_found_outside_of_a_project(project, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("MATCHED_ROOT", str(elsewhere))
    line = project.mistake("list")
    assert line.startswith(f"no recipes/paper.toml in {elsewhere} or above it")
    assert "MATCHED_ROOT" in line


def test_root_is_found_from_a_subfolder(project, monkeypatch):
    below = project.root / "recipes" / "first"
    monkeypatch.delenv("MATCHED_ROOT")
    monkeypatch.chdir(below)
    assert project.cli("list").split() == ["table1"]


def test_load_constant_of_a_missing_file_is_none(project):
    assert recipes.load_constant(project.root / "recipes/claims.py", "CLAIMS", tuple) is None


def test_load_checks_scales_on_other_data(project):
    project.recipe(
        "OTHER = scale(small={'LN': SMALL, 'DyT': LARGE})\n"
        "TABLE = Table(arms=ARMS, scales=(replace(scale(small=SMALL), on_data={'x': OTHER}),))"
    )
    line = project.mistake("plan", "table1")
    assert line.startswith("table1 at smoke scale, row small: the arms LN and DyT are not matched")


# --- the recipes of this repository


@pytest.fixture
def repository(project, monkeypatch):
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))
    projects.root.cache_clear()


FILES = sorted((ROOT / "recipes").glob("*/table[0-9][0-9].py"))


def test_the_repository_has_recipes():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_loads_at_every_scale(repository, path):
    """Loading checks that the arms are matched, and the sets below need every signature."""
    (name,) = [name for name, file in recipes.available().items() if file == path]
    recipe = recipes.load(name)
    scales = {scale.name for scale in recipe.table.scales}
    assert {"smoke", "paper"} <= scales
    for scale in recipe.table.scales:
        cells = list(recipe.table.cells(scale))
        assert cells
        for metric in recipe.metrics(scale):
            assert metric.direction in ("higher", "lower", "none")
    smoke, paper = (
        {c.run for c in recipe.table.cells(recipe.scale(name))} for name in ("smoke", "paper")
    )
    assert not smoke & paper, "a run of one scale would appear in the table of the other"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_names_its_make_target_and_no_paper_number(repository, path):
    text = path.read_text(encoding="utf-8")
    number = int(path.stem.removeprefix("table"))
    assert f"make {recipes.paper_numbers()[path.parent.name]['prefix']}table{number}" in text
    printed = recipes.paper_numbers()[path.parent.name][f"table{number}"]
    code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    for row in printed["rows"].values():
        for arm in printed["arms"]:
            # What a search finds, such as α0, is one of the values that its recipe tries.
            for metric in [m for m in printed["metrics"] if m["direction"] != "none"]:
                value = str(row.get(arm, {}).get(metric["key"], "no number"))
                if len(value) > 3:
                    assert not re.search(rf"(?<![\d.]){re.escape(value)}(?![\d.])", code)


COMMON = {
    "epochs": 300,
    "warmup_epochs": 20,
    "batch": 4096,
    "micro_batch": 64,
    "lr": 4e-3,
    "min_lr": 1e-6,
    "weight_decay": 0.05,
    "betas": (0.9, 0.999),
    "label_smoothing": 0.1,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "mixup": 0.8,
    "cutmix": 1.0,
    "erasing": 0.25,
    "crop_ratio": 0.875,
    "ema_decay": 0.9999,
    "schedule": "cosine",
    "data": "imagenet",
    "image_size": 224,
}


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ("vit_b", {"model": "vit_base_patch16_224", "drop_path": 0.1}),
        ("vit_l", {"model": "vit_large_patch16_224", "drop_path": 0.4, "betas": (0.9, 0.95)}),
        ("convnext_b", {"model": "convnext_base", "drop_path": 0.5}),
        ("convnext_l", {"model": "convnext_large", "drop_path": 0.5}),
    ],
)
def test_table_1_at_paper_scale_has_the_papers_settings(repository, row, settings):
    recipe = recipes.load("table1")
    paper = recipe.scale("paper")
    runs = [cell for cell in recipe.table.cells(paper) if cell.row == row]
    assert [cell.arm for cell in runs] == ["LN", "DyT"]
    for cell in runs:
        for key, value in {**COMMON, **settings}.items():
            assert getattr(cell.run.config, key) == value, key
    assert (runs[0].run.config.norm.layer, runs[1].run.config.norm.layer) == ("own", "dyt")
    assert runs[1].run.config.norm.alpha0 == 0.5


def test_table_1_at_paper_scale_needs_no_accumulation(repository):
    recipe = recipes.load("table1")
    paper = recipe.scale("paper")
    assert paper.resources.gpus == 64
    for cell in recipe.table.cells(paper):
        assert paper.resources.gpus * cell.run.config.micro_batch == cell.run.config.batch


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_recipe_in_another_encoding_is_refused_by_name(project, encoding):
    path = project.root / "recipes" / "first" / "table01.py"
    path.write_bytes('"""Für mich."""\n'.encode(encoding))
    line = project.mistake("plan", "table1")
    assert line.startswith(f"{path}, line 1: SyntaxError: ")


def test_paper_toml_in_latin_1_is_refused_by_name(project):
    path = project.root / "recipes" / "paper.toml"
    path.write_bytes("[first]\n# für mich\n".encode("latin-1"))
    line = project.mistake("plan", "table1")
    assert line.startswith(f"{path}, line 2: byte 0xfc is not UTF-8; expected UTF-8: save the file")
