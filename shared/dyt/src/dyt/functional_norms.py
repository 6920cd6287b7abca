"""Calls of functional norms, such as F.layer_norm, in Python sources.

No module is built for such a call, so no conversion replaces it. The calls are found in the source
text: replacing torch's functions in order to observe them would change what torch.compile traces.
"""

from __future__ import annotations

import ast
import functools
import os
import site
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from torch import nn

NAMES = ("layer_norm", "rms_norm", "native_layer_norm")
FUNCTIONS = frozenset(
    f"{module}.{name}" for module in ("torch", "torch.nn.functional") for name in NAMES
)


def functional_norm_calls(
    used: Iterable[type[nn.Module]], replaced: Collection[type[nn.Module]]
) -> list[str]:
    """Return "file:line (call)" for calls of functional norms outside of replaced norm classes.

    All imported files outside of libraries are searched, and of libraries the classes in `used`.

    Args:
        used: the classes of the modules of the networks.
        replaced: norm classes whose instances were replaced; calls inside of them are left out.
    """
    kinds = {kind for kind in used if not kind.__module__.startswith(("torch.", "dyt."))}
    in_libraries: dict[str, set[str]] = {}
    excluded: dict[str, set[str]] = {}
    for names, classes in ((in_libraries, kinds), (excluded, set(replaced))):
        for kind in classes:
            scope = kind.__qualname__.replace("<locals>.", "")
            names.setdefault(kind.__module__, set()).add(scope)
    calls: set[tuple[str, int, str]] = set()
    for name, module in list(sys.modules.items()):
        file = _source(module)
        if file is None or name.partition(".")[0] in ("dyt", "torch"):
            continue
        own = not _is_library(os.path.dirname(file))
        if own or name in in_libraries:
            for scope, line, call in _calls(file, _last_change(file)):
                within = any(_inside(scope, kind) for kind in in_libraries.get(name, ()))
                dropped = any(_inside(scope, kind) for kind in excluded.get(name, ()))
                if (own or within) and not dropped:
                    calls.add((file, line, call))
    return [f"{file}:{line} ({call})" for file, line, call in sorted(calls)]


def _source(module: ModuleType | None) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") else None


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = {paths["stdlib"], paths["platlib"], paths["purelib"], site.getusersitepackages()}
    return tuple(Path(folder).resolve() for folder in folders)


@functools.cache
def _is_library(folder: str) -> bool:
    resolved = Path(folder).resolve()
    named = {"site-packages", "dist-packages"} & set(resolved.parts)
    return bool(named) or any(resolved.is_relative_to(known) for known in _library_folders())


def _inside(scope: str, kind: str) -> bool:
    return scope == kind or scope.startswith(f"{kind}.")


def _last_change(file: str) -> tuple[int, int]:
    """Return time and size of a file, which differ after a change; zeros if there is no file."""
    try:
        status = os.stat(file)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@functools.cache  # each block searches the same files, of which there may be thousands
def _calls(file: str, last_change: tuple[int, int]) -> tuple[tuple[str, int, str], ...]:
    """Return (qualified name of the enclosing scope, line, called name) of each call in a file."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        if not any(name in text for name in NAMES):  # parsing is slow
            return ()
        return tuple(_calls_in(ast.parse(text)))
    except (OSError, SyntaxError, ValueError):  # not readable, or not Python
        return ()


def _calls_in(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    """Yield what ``_calls`` returns."""
    names = _imported_names(tree)
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        scope, node = pending.pop()
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = f"{scope}.{child.name}" if scope else child.name
            elif isinstance(child, ast.Call):
                called = ast.unparse(child.func)
                first, dot, rest = called.partition(".")
                if f"{names.get(first, '')}{dot}{rest}" in FUNCTIONS:
                    yield scope, child.lineno, called
            pending.append((inner, child))


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """Return the names that a file imports, with what they refer to: "F": "torch.nn.functional"."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
                else:
                    first = alias.name.partition(".")[0]
                    names[first] = first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names
