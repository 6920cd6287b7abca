"""Names of data sources for a checkout that is only on PYTHONPATH, without installation."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def write_metadata(folder: Path) -> None:
    """Write the entry points of the checkout's packages as the metadata of installed ones."""
    for file in sorted(PROJECT.glob("packages/*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        lines = [f"Name: {project['name']}", f"Version: {project['version']}"]
        (metadata / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
        groups = project.get("entry-points", {})
        text = "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in groups.items()
        )
        (metadata / "entry_points.txt").write_text(text)


def environment(folder: Path, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return variables for a process that runs tables: it finds the data sources by name.

    Args:
        folder: a folder for the metadata.
    """
    write_metadata(folder)
    known = {**variables, "PYTHONPATH": f"{folder}{os.pathsep}{variables.get('PYTHONPATH', '')}"}
    for name in ("TRITON_INTERPRET", "DYT_BACKEND"):  # too slow for a run, in a rehearsal
        known.pop(name, None)
    return known
