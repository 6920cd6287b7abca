"""Import rules between parts of the project, and the shape of every module.

recipes → packages → shared/matched → nothing of ours; packages → shared/dyt; dyt_dit → dyt_vision;
dyt_caduceus → dyt_hyenadna.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Set
from functools import cache
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
    """Return every name that a tree imports, also inside functions; relative ones with dots."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (f"{node.module}." if node.module else "")
            found |= {module + alias.name for alias in node.names}
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


@cache
def imports(path: Path) -> frozenset[str]:
    """Return every name that a source file imports."""
    return frozenset(imported(parse(path)))


def check_all(problems: Mapping[Path, object]) -> None:
    """Fail with a line for each file that has a problem."""
    lines = [f"{path.relative_to(ROOT)}: {found}" for path, found in problems.items() if found]
    assert not lines, "\n".join(lines)


def module_name(path: Path) -> str:
    """Return the dotted name by which a source file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    names = parts[parts.index("src") + 1 :] if "src" in parts else parts
    return ".".join(names).removesuffix(".__init__")


def dependencies(imports: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """Map each module to those it imports, but not to their packages.

    ``from a import b`` is an edge to the module ``a.b`` if there is one, and to ``a`` otherwise.

    Args:
        imports: module → names that it imports.
    """

    def module(name: str) -> str:
        return name if name in imports else name.rpartition(".")[0]

    return {
        name: {module(target) for target in targets} & imports.keys() - {name}
        for name, targets in imports.items()
    }


def import_cycle(imports: Mapping[str, Set[str]]) -> list[str]:
    """Return the modules of one import cycle, in order, or nothing if there is none."""
    try:
        TopologicalSorter(dependencies(imports)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


# Modules used inside jobs: they may load torch, but only inside functions.
IN_JOBS = {"peers.py", "provenance.py", "rendezvous.py"}


def test_every_part_is_found():
    assert {part_of(path) for path in SOURCES} == OURS
    assert "dyt_vision" in PACKAGES


def test_no_relative_imports():
    """They hide dependencies; name the module."""
    check_all({path: [n for n in imports(path) if n.startswith(".")] for path in SOURCES})


def test_imports_follow_allowed_dependencies():
    def refused(path):
        part = part_of(path)
        return {name.split(".")[0] for name in imports(path)} & OURS - {part, *ALLOWED[part]}

    check_all({path: refused(path) for path in SOURCES})


def test_no_import_cycles():
    assert import_cycle({module_name(path): imports(path) for path in SOURCES}) == []


def test_import_matched_loads_no_heavy_package():
    """Recipes and configs import ``matched``; a command that shows states answers at once."""
    heavy = ("submitit", "torch", "rich", "numpy")
    code = f"import json, sys, matched; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(answer.stdout) == []


MATCHED_CORE = [p for p in SOURCES if part_of(p) == "matched" and "training" not in p.parts]


def test_only_training_imports_torch_in_matched():
    """Planning, states and tables must not wait seconds for torch to load."""

    def heavy(path):
        names = imported_on_import(parse(path)) if path.name in IN_JOBS else imports(path)
        return {n for n in names if n.split(".")[0] == "torch" or n.startswith("matched.training")}

    check_all({path: heavy(path) for path in MATCHED_CORE})


def test_matched_core_never_imports_training():
    """Not even inside a function: that would close a cycle and load torch outside of training."""
    check_all(
        {p: [n for n in imports(p) if n.startswith("matched.training")] for p in MATCHED_CORE}
    )


def test_recipes_import_no_heavy_package():
    heavy = {"torch", "timm", "numpy", "submitit", "torchvision", "transformers", "diffusers"}
    recipes = [path for path in SOURCES if part_of(path) == "recipes"]
    check_all({path: {name.split(".")[0] for name in imports(path)} & heavy for path in recipes})


def flaw(path: Path) -> str:
    """Return what is wrong with the length or the docstring of a module; "" if nothing is."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > LONGEST:
        return f"{lines} lines; expected at most {LONGEST}"
    docstring = ast.get_docstring(ast.parse(text))
    if not docstring:
        empty_package = path.name == "__init__.py" and not text.strip()
        return "" if empty_package else "a module starts with a docstring"
    return "the first line is long" if len(docstring.splitlines()[0]) > 100 else ""


def texts_without_encoding(text: str) -> list[int]:
    """Return the lines of calls that read or write text in the encoding of the user's locale."""
    found: list[int] = []
    if not re.search(r"\bopen\(|\.(read|write)_text\(", text):
        return found  # parsing takes longer
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Name(id="open"), args=[_]):
                mode = "r"
            case ast.Call(func=ast.Name(id="open"), args=[_, ast.Constant(value=str(mode)), *_]):
                pass
            case ast.Call(func=ast.Attribute(attr="open" | "read_text"), args=[]):
                mode = "r"
            case ast.Call(func=ast.Attribute(attr="write_text"), args=[_]):
                mode = "w"
            case ast.Call(func=ast.Attribute(attr="open"), args=[ast.Constant(value=str(mode))]):
                pass
            case _:
                continue
        if "b" not in mode and all(keyword.arg != "encoding" for keyword in node.keywords):
            found.append(node.lineno)
    return found


def test_text_files_are_read_and_written_as_utf8():
    check_all({p: texts_without_encoding(p.read_text(encoding="utf-8")) for p in SOURCES})


def test_texts_without_encoding_finds_every_form():
    text = """
open(a)
open(a, "w", newline="")
b.open()
b.open("a", 1)
b.open("a", newline="")
b.read_text(errors="replace")
b.write_text("c")
"""
    assert texts_without_encoding(text) == [2, 3, 4, 6, 7, 8]
    text = """
open(a, encoding="utf-8")
open(a, "rb")
b.open("wb")
b.open("w", encoding="utf-8")
b.open(c)
archive.open("c", "w")
b.read_text(encoding="utf-8")
distribution.read_text("METADATA")
write_text(b, "c")
"""
    assert texts_without_encoding(text) == []


def test_modules_log_to_the_logger_that_runs_write_to_their_files():
    """Another one's messages are missing in a run's log, and those below a warning everywhere."""
    loggers = {
        module_name(path): node.value
        for path in SOURCES
        for node in parse(path).body
        if isinstance(node, ast.Assign) and "getLogger" in ast.unparse(node.value)
    }
    assert len(loggers) > 30
    wrong = [m for m, v in loggers.items() if ast.unparse(v) != "logging.getLogger('matched')"]
    assert wrong == []


def test_modules_are_short_and_have_a_docstring():
    check_all({path: flaw(path) for path in SOURCES})


def test_test_modules_are_short_and_have_a_docstring():
    check_all({path: flaw(path) for path in (ROOT / "tests").rglob("*.py")})


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
    texts = {
        "a": "import b.c",
        "b": "",
        "b.c": "from b import d",
        "b.d": "def later():\n    from a import name\n",
    }
    names = {module: imported(ast.parse(text)) for module, text in texts.items()}
    assert set(import_cycle(names)) == {"a", "b.c", "b.d"}
    assert dependencies(names) == {"a": {"b.c"}, "b": set(), "b.c": {"b.d"}, "b.d": {"a"}}
    assert import_cycle({**names, "b.d": set()}) == []


def test_imported_shows_relative_imports():
    assert imported(ast.parse("from . import a\nfrom ..b import c")) == {".a", "..b.c"}


def test_flaw_of_a_module(tmp_path):
    texts = {
        "good.py": '"""Good."""\n',
        "__init__.py": "\n",
        "bare.py": "A = 1\n",
        "empty.py": "",
        "wide.py": f'"""{"w" * 101}"""\n',
        "long.py": '"""Long."""\n' + "\n" * LONGEST,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert {name for name in texts if flaw(tmp_path / name)} == {
        "bare.py",
        "empty.py",
        "wide.py",
        "long.py",
    }


def test_check_all_names_every_file_with_a_problem():
    problems = {ROOT / "a.py": "bad", ROOT / "b.py": "", ROOT / "c.py": ["worse"]}
    with pytest.raises(AssertionError) as failure:
        check_all(problems)
    lines = [line.strip() for line in str(failure.value).splitlines()]
    assert lines[:2] == ["a.py: bad", "c.py: ['worse']"]


def test_module_name_of_packages_and_recipes():
    source = ROOT / "shared" / "matched" / "src" / "matched"
    assert module_name(source / "training" / "loop.py") == "matched.training.loop"
    assert module_name(source / "__init__.py") == "matched"
    recipe = ROOT / "recipes" / "cvpr2025" / "table01.py"
    assert module_name(recipe) == "recipes.cvpr2025.table01"
