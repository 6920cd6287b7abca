"""Refusal to run the recipes of one checkout with the packages of another."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def check_packages(root: Path) -> None:
    """Check that the packages in the folder ``root``, if it has any, are those that are imported.

    In a checkout that was copied with its environment they are those of the original, and edits of
    the copy have no effect.

    Raises:
        ValueError: naming the package, and where it is imported from.
    """
    for part in ("shared", "packages"):
        for init in sorted(root.glob(f"{part}/*/src/*/__init__.py")):
            spec = find_spec(init.parent.name)
            imported = Path(spec.origin) if spec is not None and spec.origin else None
            if imported is None or (imported.exists() and imported.samefile(init)):
                continue
            raise ValueError(
                f"{init.parent.name} is imported from {imported.parent}, but {root} has its own; "
                "run the `matched` of this checkout's environment, and if the checkout was copied "
                "or renamed, create that again: rm -rf .venv && make setup"
            )
