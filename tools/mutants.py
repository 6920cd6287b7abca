"""Mutation test of a module: small bugs, put into a copy of the checkout one at a time.

    make mutants MODULE=shared/matched/src/matched/lease.py TESTS_OF=tests/matched/test_lease.py

Each bug changes one operator, number or statement, as in "<" → "<=", and the tests are run until
one fails. A bug that no test notices is printed: either a test is missing, or the bug changes
nothing that matters. Bugs are drawn at random, the same ones for the same seed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}


def mutated_nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, str, object]]:
    """Yield (node, field, new value) for every bug of a module."""
    decorators = {
        id(inner)
        for node in ast.walk(tree)
        for decorator in getattr(node, "decorator_list", ())
        for inner in ast.walk(decorator)
    }
    for node in ast.walk(tree):
        if id(node) in decorators:  # such as @dataclass(frozen=True)
            continue
        if isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in SWAPS:
            yield node, "op", SWAPS[type(node.op)]()
        elif isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                ops: list[object] = list(node.ops)
                ops[i] = SWAPS[type(op)]()
                yield node, "ops", ops
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, "value", not node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield node, "value", node.value + 1
        elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
            yield node, "test", ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "value", ast.Constant(None)


def bugs(source: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Return (description, source with the bug) of ``count`` random bugs of a module."""
    tree = ast.parse(source)
    found = list(mutated_nodes(tree))
    made = []
    for node, field, value in random.Random(seed).sample(found, min(count, len(found))):
        before, shown = getattr(node, field), copy.copy(node)
        setattr(shown, field, value)
        old, new = (ast.unparse(each).partition("\n")[0] for each in (node, shown))
        setattr(node, field, value)
        made.append((f"line {node.lineno}: {old} → {new}", ast.unparse(tree)))
        setattr(node, field, before)
    return made


def copy_checkout(target: Path) -> None:
    """Copy the files that git tracks or does not ignore."""
    options = ("--cached", "--others", "--exclude-standard", "-z")
    listed = subprocess.check_output(["git", "ls-files", *options], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def tests_notice(checkout: Path, tests: list[str], seconds: float) -> bool:
    """Run the tests in a copy of the checkout; True if one fails or they take too long."""
    sources = [*checkout.glob("shared/*/src"), *checkout.glob("packages/*/src")]
    python_path = os.pathsep.join(map(str, sources))
    environment = {**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    selected = ["-m", "not slow and not slurm", *tests]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *selected]
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds) != 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+", help="the likeliest to fail first")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300, help="after which tests have noticed")
    options = parser.parse_args()
    source = (ROOT / options.module).read_text(encoding="utf-8")
    made = bugs(source, options.count, options.seed)
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        copy_checkout(checkout)
        if tests_notice(checkout, options.tests, options.seconds):
            raise SystemExit("error: the tests fail without a bug; choose tests that pass")
        for description, text in made:
            (checkout / options.module).write_text(text, encoding="utf-8")
            if not tests_notice(checkout, options.tests, options.seconds):
                unnoticed += 1
                print(f"not noticed: {description}", flush=True)
    print(f"{len(made) - unnoticed} of {len(made)} bugs noticed in {options.module}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
