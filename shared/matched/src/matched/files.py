"""Atomic file writes, readers of text and JSON files, and unique file names."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKSUM_SUFFIX = ".sha256"
"""Suffix of the file with another file's checksum: images.npz.sha256 belongs to images.npz."""


class DamagedFileError(ValueError):
    """A file of a run directory that cannot be trusted; the message has its path and the reason."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` on success."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # the error of a full disk has no file name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Return the text of a file that a person wrote, in UTF-8 with or without a byte order mark.

    Raises:
        ValueError: for another encoding, with the line and what to do.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ValueError(
            f"{path} is in UTF-16 or not a text file; expected UTF-8: save the file as UTF-8, for "
            "example with `iconv -f UTF-16 -t UTF-8`"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; expected UTF-8: "
            "save the file as UTF-8, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from None


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """Return the JSON object in ``path``, or None if there is no such file.

    Raises:
        DamagedFileError: if the file is not one complete JSON object with all ``keys``.
    """
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # a UnicodeDecodeError too
        raise DamagedFileError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path} is not a JSON object")
    if missing := [key for key in keys if key not in value]:
        raise DamagedFileError(f"{path} lacks {', '.join(missing)}")
    return value


def read_json_lines(path: Path, keys: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file of JSON objects; none if there is no file.

    Raises:
        DamagedFileError: if a line, other than an incomplete last one, is not a JSON object with
            all ``keys``.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    for number, line_text in enumerate(text.splitlines(keepends=True), 1):
        if not line_text.endswith("\n"):  # being written
            return
        try:
            line = json.loads(line_text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or any(key not in line for key in keys):
            raise DamagedFileError(f"{path}, line {number}, is damaged")
        yield line


def unique_file_names(names: Iterable[str]) -> dict[str, str]:
    """Return name → a form for file names and URLs; all differ even if case is ignored."""
    safe_names: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "unnamed"
        safe, count = plain, 1
        while safe.lower() in taken:
            count += 1
            safe = f"{plain}-{count}"
        taken.add(safe.lower())
        safe_names[name] = safe
    return safe_names
