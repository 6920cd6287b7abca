"""Docstrings of pinned packages, 24 million characters: the text of the mini scale.

The documents are the distinct docstrings of the modules, classes and functions in five packages of
requirements.lock, read from their source without importing them. They are sorted by a hash of their
text, so that the beginning of the text is a random sample of it. The wheels of these versions have
the same Python files for every Python; packages that have others, such as numpy, are left out. Many
docstrings of transformers repeat each other in part, so held-out ones are not wholly unknown.

The module imports no torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

PACKAGES = {
    "diffusers": "0.42.1",
    "scikit-learn": "1.9.1",
    "sympy": "1.14.0",
    "torch": "2.11.0",
    "transformers": "5.23.0",
}
"""Distribution → version, without the local part, such as "+cu128"."""
SHA256 = "c981fade4ef24401ac7812ab119352da76afef49aaac0b500691d1c4568c7a60"
"""Hash of all documents, each followed by a zero byte."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def version_refusal(packages: Mapping[str, str] = PACKAGES) -> str:
    """Return why the text cannot be read in this environment; empty if it can."""
    installed = {name: _version(name) for name in packages}
    others = [f"{name} {there}" for name, there in installed.items() if there != packages[name]]
    if not others:
        return ""
    expected = ", ".join(f"{name} {packages[name]}" for name in packages)
    return (
        f"the text of docstrings is that of {expected}, and this environment has "
        f"{', '.join(others)}; `make setup` installs the versions of requirements.lock"
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def docstrings() -> tuple[str, ...]:
    """Return the documents; about a minute on one core.

    Raises:
        ValueError: if a package has another version, or its files have been changed.
    """
    if refusal := version_refusal():
        raise ValueError(refusal)
    documents = sort_documents(text for name in PACKAGES for text in read_package(name))
    if (digest := digest_of(documents)) != SHA256:
        raise ValueError(
            f"the docstrings of {', '.join(PACKAGES)} have the SHA-256 {digest}, not {SHA256}: a "
            "file of theirs is missing or changed; install these packages again"
        )
    return documents


def read_package(name: str) -> Iterator[str]:
    """Yield the docstrings of an installed distribution, in the order of its files.

    Raises:
        ValueError: if the distribution has no list of its files, or one of them is not Python.
    """
    files = importlib.metadata.files(name)
    if not files:
        raise ValueError(f"{name} is installed without a list of its files; install it again")
    for file in sorted(map(str, files)):
        if file.endswith(".py"):
            yield from _read_file(importlib.metadata.distribution(name).locate_file(file))


def _read_file(path: Any) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings, which differ between Pythons
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); install its package again") from None
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node, clean=False)):
            yield without_indentation(text)


def without_indentation(docstring: str) -> str:
    """Return a docstring without indentation and blank lines around it.

    ``inspect.cleandoc`` is not the same in every version of Python.
    """
    first, *rest = docstring.expandtabs().split("\n")
    margins = [len(line) - len(line.lstrip()) for line in rest if line.strip()]
    margin = min(margins, default=0)
    return "\n".join([first.strip(), *(line[margin:].rstrip() for line in rest)]).strip()


def sort_documents(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct texts that are valid Unicode, sorted by their hash."""
    by_hash: dict[bytes, str] = {}
    for text in texts:
        try:
            by_hash[hashlib.sha256(text.encode()).digest()] = text
        except UnicodeEncodeError:  # a lone surrogate, which no tokenizer takes
            continue
    return tuple(by_hash[key] for key in sorted(by_hash) if by_hash[key])


def digest_of(documents: Iterable[str]) -> str:
    """Return the hash that ``SHA256`` is compared with."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode() + b"\0")
    return digest.hexdigest()
