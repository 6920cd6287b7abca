"""Who may import whom, and what every module has to be: the arrows of docs/ARCHITECTURE.md.

recipes → packages → shared/matched → nothing of ours; packages → shared/dyt; dyt_dit → dyt_vision.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 420
"""Lines of a module: about 400, which is what one reads in one go."""


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

# What a part may import of ours, besides itself.
ALLOWED = {
    "dyt": set(),
    "matched": set(),
    **{package: {"dyt", "matched"} for package in PACKAGES},
    # Two domains that read the same data share one home: dyt_vision.image_data.
    "dyt_dit": {"dyt", "matched", "dyt_vision"},
    "recipes": {"dyt", "matched", *PACKAGES},
}


IMPORT = (ast.Import, ast.ImportFrom)


def imported(tree: ast.AST) -> set[str]:
    """Modules that a tree imports anywhere in it, functions included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows; name the module"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_on_import(tree: ast.AST) -> set[str]:
    """Modules that are loaded when this one is: those outside of its functions and methods."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef):
            found |= imported(node) if isinstance(node, IMPORT) else imported_on_import(node)
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# What jobs call may load torch, but only when it is called.
IN_JOBS = {"peers.py", "provenance.py", "rendezvous.py"}

EVERY = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def test_the_parts_are_there():
    assert {part_of(path) for path in SOURCES} == OURS
    assert "dyt_vision" in PACKAGES


@EVERY
def test_imports_follow_the_arrows(path):
    part = part_of(path)
    ours = {name.split(".")[0] for name in imported(parse(path))} & OURS
    assert ours <= {part, *ALLOWED[part]}


@EVERY
def test_only_training_imports_torch_in_matched(path):
    """Planning, states and tables are for machines where torch takes seconds to load."""
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
def test_recipes_load_nothing_but_the_standard_library_and_ours(path):
    if part_of(path) != "recipes":
        return
    heavy = {"torch", "timm", "numpy", "submitit", "torchvision", "transformers", "diffusers"}
    assert not {name.split(".")[0] for name in imported(parse(path))} & heavy


@EVERY
def test_a_module_is_short_and_says_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    if text.strip():
        said = ast.get_docstring(ast.parse(text))
        assert said, "a module starts with a docstring"
        assert len(said.splitlines()[0]) <= 100
    else:
        assert path.name == "__init__.py"


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_test_module_says_what_it_is_for(path):
    assert ast.get_docstring(parse(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_checks_see_what_they_look_for():
    """Of a tree that breaks the rules, every breach is seen."""
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
