"""Import rules between parts of the project, and the shape of every module.

recipes → packages → shared/matched → nothing of ours; packages → shared/dyt; dyt_dit → dyt_vision;
dyt_caduceus → dyt_hyenadna.
"""

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 420
"""The most lines a module may have: about 400, which can be read in one go."""


def part_of(path: Path) -> str:
    """The part of the project that a file belongs to: its import name, or "recipes"."""
    top, _, *inner = path.relative_to(ROOT).parts
    if top == "recipes":
        return "recipes"
    if top in ("shared", "packages"):
        return inner[1]
    return top


SOURCES = sorted(
    path
    for pattern in ("shared/*/src/**/*.py", "packages/*/src/**/*.py", "recipes/**/*.py")
    for path in ROOT.glob(pattern)
)
PACKAGES = {part_of(path) for path in ROOT.glob("packages/*/src/*/*.py")}
OURS = {"dyt", "matched", "recipes", *PACKAGES}

# The parts of this project that a part may import, other than itself.
ALLOWED = {
    "dyt": set(),
    "matched": set(),
    **{package: {"dyt", "matched"} for package in PACKAGES},
    # Two domains that read the same data share one home: dyt_vision.image_data.
    "dyt_dit": {"dyt", "matched", "dyt_vision"},
    # Genome data, GenomicBenchmarks and the training tasks of both DNA packages.
    "dyt_caduceus": {"dyt", "matched", "dyt_hyenadna"},
    "recipes": {"dyt", "matched", *PACKAGES},
}


IMPORT = (ast.Import, ast.ImportFrom)


def imported(tree: ast.AST) -> set[str]:
    """Return every name that a tree imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide dependencies; name the module"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_on_import(tree: ast.AST) -> set[str]:
    """Return the names imported outside of functions: those loaded together with the module."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef):
            found |= imported(node) if isinstance(node, IMPORT) else imported_on_import(node)
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """Return the dotted name by which a source file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    names = parts[parts.index("src") + 1 :] if "src" in parts else parts
    return ".".join(names).removesuffix(".__init__")


def dependencies(trees: dict[str, ast.AST]) -> dict[str, set[str]]:
    """Map each module to those it imports, also inside functions, but not to their packages.

    ``from a import b`` is an edge to the module ``a.b`` if there is one, and to ``a`` otherwise.
    """

    def module(name: str) -> str:
        return name if name in trees else name.rpartition(".")[0]

    return {
        name: {module(target) for target in imported(tree)} & trees.keys() - {name}
        for name, tree in trees.items()
    }


def import_cycle(trees: dict[str, ast.AST]) -> list[str]:
    """Return the modules of one import cycle, in order, or nothing if there is none."""
    try:
        TopologicalSorter(dependencies(trees)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


# Modules used inside jobs: they may load torch, but only inside functions.
IN_JOBS = {"peers.py", "provenance.py", "rendezvous.py"}

EVERY = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def test_every_part_is_found():
    assert {part_of(path) for path in SOURCES} == OURS
    assert "dyt_vision" in PACKAGES


@EVERY
def test_imports_follow_allowed_dependencies(path):
    part = part_of(path)
    ours = {name.split(".")[0] for name in imported(parse(path))} & OURS
    assert ours <= {part, *ALLOWED[part]}


def test_no_import_cycles():
    assert import_cycle({module_name(path): parse(path) for path in SOURCES}) == []


def test_import_matched_loads_no_heavy_package():
    """Recipes and configs import ``matched``; a command that shows states answers at once."""
    heavy = ("submitit", "torch", "rich", "numpy")
    code = f"import json, sys, matched; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(answer.stdout) == []


@EVERY
def test_only_training_imports_torch_in_matched(path):
    """Planning, states and tables must not wait seconds for torch to load."""
    if part_of(path) != "matched":
        return
    loaded = imported_on_import if path.name in IN_JOBS else imported
    names = loaded(parse(path))
    heavy = {n for n in names if n.split(".")[0] == "torch" or n.startswith("matched.training")}
    assert "training" in path.parts or not heavy


@EVERY
def test_matched_core_never_imports_training(path):
    """Not even inside a function: that would close a cycle and load torch outside of training."""
    if part_of(path) == "matched" and "training" not in path.parts:
        assert not {n for n in imported(parse(path)) if n.startswith("matched.training")}


@EVERY
def test_recipes_import_no_heavy_package(path):
    if part_of(path) != "recipes":
        return
    heavy = {"torch", "timm", "numpy", "submitit", "torchvision", "transformers", "diffusers"}
    assert not {name.split(".")[0] for name in imported(parse(path))} & heavy


@EVERY
def test_modules_are_short_and_have_a_docstring(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, "a module starts with a docstring"
        assert len(docstring.splitlines()[0]) <= 100
    else:
        assert path.name == "__init__.py"


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_test_modules_are_short_and_have_a_docstring(path):
    assert ast.get_docstring(parse(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_imported_finds_imports_in_functions_and_classes():
    tree = ast.parse(
        "import torch.nn\nfrom dyt_vision import models\n"
        "def later():\n    import timm\n    from matched.training import fit\n"
        "class C:\n    import numpy\n"
    )
    assert imported(tree) == {
        "torch.nn",
        "dyt_vision.models",
        "timm",
        "matched.training.fit",
        "numpy",
    }
    assert imported_on_import(tree) == {"torch.nn", "dyt_vision.models", "numpy"}


def test_import_cycle_finds_imports_in_functions():
    trees = {
        "a": ast.parse("import b.c"),
        "b": ast.parse(""),
        "b.c": ast.parse("from b import d"),
        "b.d": ast.parse("def later():\n    from a import name\n"),
    }
    assert set(import_cycle(trees)) == {"a", "b.c", "b.d"}
    assert dependencies(trees) == {"a": {"b.c"}, "b": set(), "b.c": {"b.d"}, "b.d": {"a"}}
    assert import_cycle({**trees, "b.d": ast.parse("")}) == []


def test_module_name_of_packages_and_recipes():
    source = ROOT / "shared" / "matched" / "src" / "matched"
    assert module_name(source / "training" / "loop.py") == "matched.training.loop"
    assert module_name(source / "__init__.py") == "matched"
    recipe = ROOT / "recipes" / "cvpr2025" / "table01.py"
    assert module_name(recipe) == "recipes.cvpr2025.table01"
