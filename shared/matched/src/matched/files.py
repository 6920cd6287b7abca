"""Files that are whole or absent: every write goes to a temporary name and is then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKSUM = ".sha256"
"""How the name of a file ends that stands beside another one and holds its checksum."""


class DamagedFileError(ValueError):
    """A file of a run directory that cannot be trusted; the message names it and says why."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; renamed to ``path`` if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say which file it has no room for
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """The object in ``path``, or None where there is no such file.

    Raises:
        Damaged: if the file is not one whole JSON object that has all ``keys``.
    """
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} is not whole JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path} does not hold a JSON object")
    if missing := [key for key in keys if key not in value]:
        raise DamagedFileError(f"{path} lacks {', '.join(missing)}")
    return value
