"""Users' own recipe files: loading, folders, results, jobs that import them, and refusals."""

import csv
import shutil
import subprocess
import sys

import pytest

from matched import recipes
from matched.provenance import job_python_path
from matched.summary_table import summary_table

RECIPE = '''
"""A table of no paper, whose task is in the module next to it."""

from matched import Arm, Metric, Resources, Run, Scale, Table
from my_model import Config

METRICS = (Metric(key="top1", label="accuracy", unit="%", direction="higher"),)
ARMS = (Arm(name="LN", norm="LN"), Arm(name="DyT", norm="DyT"))


def scale(metrics=METRICS, **runs):
    resources = Resources(minutes=1, runs_per_job=2)
    return Scale(name="smoke", seeds=(0,), runs=runs, resources=resources, metrics=metrics)


RUN = Run(task="my_model:train", config=Config())
'''
TABLE = 'TABLE = Table(arms=ARMS, labels={"tiny": "Tiny model"}, scales=(scale(tiny=RUN),))'
MODEL = '''
"""A task that computes nothing."""

from dataclasses import dataclass

from matched import Context, Outcome


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    norm: str = "LN"
    lr: float = 0.1


def train(context: Context, config: Config) -> Outcome:
    context.write_fingerprint(weights="w", batches=["b"])
    return Outcome(metrics={"top1": 80.0 + (config.norm == "DyT") + config.lr}, steps=1)
'''


@pytest.fixture
def own(project, monkeypatch):
    """A project with a recipe file in its folder ``mine``."""

    def write(text=TABLE, name="mine/my_table.py"):
        project.write(str(project.root / name).rpartition("/")[0] + "/my_model.py", MODEL)
        return project.write(name, f"{RECIPE.lstrip()}\n{text}\n")

    project.own = write
    yield project
    for name in ("my_table", "my_model", "table1"):
        sys.modules.pop(name, None)


@pytest.fixture
def elsewhere(own, tmp_path_factory, monkeypatch):
    """A recipe file outside of any project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    own.own(name=folder / "my_table.py")
    monkeypatch.delenv("MATCHED_ROOT")
    own.environment.pop("MATCHED_ROOT")
    monkeypatch.chdir(folder)
    return folder


# --- loading


def test_load_own_recipe_needs_no_paper_numbers(own):
    path = own.own()
    recipe = recipes.load(str(path))
    assert (recipe.name, recipe.paper, recipe.project) == ("my_table", None, own.root)
    assert (recipe.title, recipe.label("tiny")) == ("my_table", "Tiny model")
    assert recipe.python_path == (path.parent, own.root)


def test_load_own_recipe_by_a_path_relative_to_the_current_folder(own, monkeypatch):
    own.own()
    monkeypatch.chdir(own.root / "mine")
    assert "tiny · DyT · seed 0" in own.cli("plan", "my_table.py")
    assert "my_table at smoke scale" in own.cli("plan", "../mine/my_table.py")


def test_own_recipe_is_imported_again_at_every_load(own):
    path = own.own()
    assert recipes.load(str(path)).label("tiny") == "Tiny model"
    own.own(TABLE.replace("Tiny model", "Other"))
    assert recipes.load(str(path)).label("tiny") == "Other"


def test_load_leaves_the_import_path_as_it_was(project):
    before = list(sys.path)
    recipes.load("table1")
    project.recipe("import nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        recipes.load("table1")
    assert sys.path == before
    assert not [name for name in sys.modules if name.split(".")[0] == "recipes"]


def test_load_own_recipe_from_the_home_folder(own, monkeypatch):
    path = own.own()
    monkeypatch.setenv("HOME", str(own.root / "mine"))
    assert recipes.load("~/my_table.py").path == path


def test_own_recipe_may_import_the_papers_recipes(own):
    own.write("recipes/first/shared.py", "RATE = 0.5\n")
    own.own(f"from recipes.first.shared import RATE\n{TABLE}")
    assert "2 of 2 runs" in own.cli("plan", str(own.root / "mine/my_table.py"))


def test_load_path_of_a_papers_recipe_loads_that_table(own):
    recipe = recipes.load(str(own.root / "recipes/first/table01.py"))
    assert recipe.name == "table1" and recipe.paper is not None


def test_load_path_of_another_projects_recipe_is_not_this_projects_table(own, tmp_path_factory):
    """The metrics of a paper's table are in its project's paper.toml."""
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(own.root / "recipes", other / "recipes")
    path = other / "recipes/first/table01.py"
    with pytest.raises(ValueError, match=f"{path}: scale smoke has no metrics"):
        recipes.load(str(path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine/my_table.py", "X = 1", "defines no TABLE; a recipe ends with TABLE = Table(...)"),
        ("mine/my_table.py", "import nowhere", "No module named 'nowhere'"),
        ("mine/my-table.py", TABLE, "cannot be imported as 'my-table'; rename it"),
        ("mine/table1.py", TABLE, "table1 is already a table"),
        ("mine/TABLE1.py", TABLE, "table1 is already a table"),
        ("mine/class.py", TABLE, "cannot be imported as 'class'; rename it to letters, digits"),
        ("mine/json.py", TABLE, "has the name of another Python module"),
        (
            "mine/my_table.py",
            "TABLE = Table(arms=ARMS, scales=(scale(metrics=(), tiny=RUN),))",
            "scale smoke has no metrics; name those that the task returns",
        ),
        ("mine/my_table.py", TABLE.replace('"tiny":', '"tiyn":'), "'tiyn'; known, nearest first"),
    ],
)
def test_load_refuses_an_own_recipe(own, name, text, message):
    path = own.own(text, name)
    line = own.mistake("plan", str(path))
    assert str(path) in line and message in line


def test_load_names_the_line_of_an_error_in_an_own_recipe(own):
    path = own.own("import nowhere")
    number = len(path.read_text(encoding="utf-8").splitlines())
    assert own.mistake("plan", str(path)).startswith(f"{path}, line {number}: ")


def test_load_refuses_an_own_recipe_that_does_not_exist(own):
    line = own.mistake("plan", str(own.root / "my_tabel.py"))
    assert line == f"no such recipe file: {own.root}/my_tabel.py"


def test_load_refuses_an_own_recipe_with_unmatched_arms(own):
    path = own.own(
        "from dataclasses import replace\n"
        "RUNS = {'LN': RUN, 'DyT': Run(task=RUN.task, config=replace(RUN.config, lr=0.2))}\n"
        "TABLE = Table(arms=ARMS, scales=(scale(tiny=RUNS),))"
    )
    assert "are not matched, they differ in config.lr: 0.1 / 0.2" in own.mistake("plan", str(path))


# --- folders and results


def test_own_table_in_a_project_uses_its_runs_and_results(own):
    path = own.own()
    out = own.cli("table", str(path))
    assert f"Written: {own.root}/results/my_table.smoke." in out
    assert f"Runs are in {own.root}/runs" in own.cli("status", str(path))


def test_own_table_outside_of_projects_keeps_runs_next_to_it(own, elsewhere):
    assert f"Runs are in {elsewhere}/runs" in own.cli("status", "my_table.py")
    own.cli("table", "my_table.py")
    assert (elsewhere / "results" / "my_table.smoke.md").is_file()
    line = own.mistake("logs", "abc")
    assert line.startswith(f"no run below {elsewhere}/runs has a signature")


def test_own_table_has_no_paper_columns(own):
    recipe = recipes.load(str(own.own()))
    table = summary_table(own.plan(str(recipe.path)))
    assert table.header == ("accuracy %", "LN", "DyT", "Δ", "runs", "matched")
    assert table.rows == (("Tiny model", "—", "—", "—", "0/2", "—"),)
    assert not [note for note in table.notes if "paper" in note]


def test_own_table_with_three_arms_has_no_paper_columns(own):
    text = "TABLE = Table(arms=(*ARMS, Arm(name='Derf', norm='Derf')), scales=(scale(tiny=RUN),))"
    table = summary_table(own.plan(str(own.own(text))))
    assert table.header == ("accuracy %", "arm", "result", "Δ", "runs", "matched")
    assert [len(row) for row in table.rows] == [6, 6, 6]


# --- jobs


@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_submit_own_table_computes_its_runs(own, elsewhere, cluster):
    """Configs and tasks are imported from the folder of the recipe, in jobs too."""
    options = ["--wait", "--cluster", cluster, "--set", "lr=0.25"]
    process = subprocess.run(
        [sys.executable, "-m", "matched", "submit", str(elsewhere / "my_table.py"), *options],
        cwd=own.root.parent,
        env=own.environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    with (elsewhere / "results" / "my_table.smoke.lr=0.25.csv").open(encoding="utf-8") as file:
        ln, dyt = csv.DictReader(file)
    assert (ln["mean"], dyt["mean"], dyt["delta"]) == ("80.25", "81.25", "1.0")
    assert (dyt["matched"], dyt["changes"]) == ("yes", "lr=0.25")


def test_job_python_path_has_the_folders_of_an_own_recipe(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", f"/a:{tmp_path}/b")
    folders = (tmp_path / "mine", tmp_path)
    assert job_python_path({}, tmp_path) is None
    assert job_python_path({}, tmp_path, folders) == f"{tmp_path}/mine:{tmp_path}:/a:{tmp_path}/b"
    snapshot = {"snapshot": "/copy"}
    assert job_python_path(snapshot, tmp_path) == "/a:/copy/b"
    assert job_python_path(snapshot, tmp_path, folders) == "/copy/mine:/copy:/a:/copy/b"


def test_job_python_path_has_copied_packages_before_inherited_ones(monkeypatch, tmp_path):
    """Otherwise a job would run the packages of another checkout."""
    root, copy = tmp_path / "root", tmp_path / "copy"
    packages = [f"packages/{name}/src" for name in ("caduceus", "dit", "llama", "own", "vision")]
    sources = [copy / name for name in ("shared/dyt/src", "shared/matched/src", *packages)]
    for folder in (*sources[3::2], *sources[::2], sources[1]):  # in another order
        folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", f"/other/shared/dyt/src:{root}/shared/dyt/src")
    found = job_python_path({"snapshot": str(copy)}, root, [root / "mine"])
    expected = [copy / "mine", *sources, "/other/shared/dyt/src", sources[0]]
    assert found == ":".join(map(str, expected))


@pytest.mark.parametrize("ignored", [True, False])
def test_snapshot_copies_an_own_recipe_that_git_does_not_ignore(own, ignored):
    path = own.own()
    own.write(".gitignore", "bin\nruns\nresults\n" + ("mine\n" if ignored else ""))
    for command in (["init", "-q"], ["add", "site.toml"], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *identity, *command], cwd=own.root, check=True)
    if ignored:
        out = own.compute("submit", str(path), "--snapshot", code=2)
        assert f"{path} is not among them" in out
    else:
        assert "yes" in own.compute("submit", str(path), "--snapshot", "--wait")
        (environment,) = list(own.root.glob("runs/my_model.train/*/environment.json"))[:1]
        assert "snapshot" in own.json(environment)["submitted"]
