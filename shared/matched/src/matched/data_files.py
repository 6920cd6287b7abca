"""Files of data sets: listing without hidden and system files, and pointers in place of content.

One policy for all domains. Hidden and system files and folders (``.ipynb_checkpoints``,
``._1.JPEG``, ``@eaDir``, ``lost+found``, ``__MACOSX``, ``Thumbs.db``) are ignored at any depth.
A folder that cannot be read is an error, and every file is listed once, whatever links lead to it.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

SYSTEM_NAMES = frozenset(
    {
        "lost+found",  # ext file systems
        "__macosx",  # archives made on a Mac
        "@eadir",  # Synology
        "@recycle",  # QNAP
        "#recycle",
        "#snapshot",
        "$recycle.bin",  # Windows
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)
"""Names, in lower case, that operating systems and storage servers add to folders of users."""

MAX_POINTER_BYTES = 1024
"""Size that no pointer reaches: git-lfs reads only smaller files as pointers."""
LFS_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/")
ANNEX_POINTER = re.compile(rb"[^\n\0]*\bannex[/\\]objects[/\\]")
"""Content of an unlocked file, or of a link that was copied as text."""


def is_system_name(name: str) -> bool:
    """True for the name of a hidden or system file or folder, which is never data."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def list_entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder sorted by name, without hidden and system names.

    Raises:
        ValueError: if the folder may not be read.
    """
    return sorted(_visible_entries(folder), key=lambda entry: entry.name)


def is_empty(folder: Path | str) -> bool:
    """True if a folder has no entries, or only hidden and system ones.

    Raises:
        ValueError: if the folder may not be read.
    """
    return next(_visible_entries(folder), None) is None


def _visible_entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_system_name(entry.name))
    except PermissionError as error:
        raise _unreadable(folder, error) from None


def list_folders(folder: Path | str) -> list[str]:
    """Return the sorted names of the folders in a folder, as ``list_entries`` lists them."""
    return [entry.name for entry in list_entries(folder) if _is_folder(entry)]


def list_loose_files(folder: Path | str) -> list[str]:
    """Return the sorted names of everything in a folder that ``list_folders`` leaves out."""
    return [entry.name for entry in list_entries(folder) if not _is_folder(entry)]


def list_files(root: Path | str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the paths of all files below a folder, at any depth, that end in one of ``suffixes``.

    Links to files and folders are followed, except for those to something that is listed anyway
    and to a folder that contains ``root``. Two links to one file outside of ``root`` are two files:
    in a store that names files by content, they are two samples that happen to be equal. A link
    without a target is listed, so that opening it names it.

    Args:
        root: folder; its own name may be hidden.
        suffixes: endings of the names, in lower case; the case of the names does not matter.

    Returns:
        Paths that start with ``root``, sorted by folder and then by name, as
        ``sorted(os.walk(root))`` orders them.

    Raises:
        ValueError: if a folder may not be read.
    """
    folders: list[str] = [os.fspath(root)]
    links: list[str] = []
    files: dict[str, list[str]] = {}
    linked: list[tuple[str, str]] = []
    visited = _folders_above(folders[0])
    while folders or links:
        # Folders come before links, so that a file is listed under its own path.
        links.sort()
        folder = folders.pop() if folders else links.pop(0)
        identity = _identity(folder)
        if identity in visited:
            continue
        visited.add(identity)
        names = files[folder] = []
        for entry in _visible_entries(folder):
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif entry.name.lower().endswith(suffixes):
                if entry.is_symlink():
                    linked.append((folder, entry.name))
                else:
                    names.append(entry.name)
    if linked:
        real = {folder: os.path.realpath(folder) for folder in files}
        listed = {os.path.join(real[folder], name) for folder in files for name in files[folder]}
        for folder, name in linked:
            if os.path.realpath(os.path.join(folder, name)) not in listed:
                files[folder].append(name)
    ordered = ((folder, sorted(files[folder])) for folder in sorted(files))
    return [os.path.join(folder, name) for folder, names in ordered for name in names]


def _folders_above(folder: str) -> set[tuple[int, int]]:
    """Return the identities of the folders that contain a folder."""
    return {_identity(parent) for parent in Path(os.path.realpath(folder)).parents}


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """True for a folder, or a link to one; False for a link that leads nowhere or to itself."""
    try:
        return entry.is_dir()
    except PermissionError as error:
        raise _unreadable(entry.path, error) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _unreadable(folder: Path | str, error: OSError) -> ValueError:
    return ValueError(
        f"{folder} cannot be read ({error.strerror}); every folder of a data set has to be "
        "readable: change its permissions, or move it out of the data set"
    )


def pointer_fault(file: Path | str) -> str:
    """Return what is wrong with a file that is a pointer of git-lfs or git-annex, else "".

    Both tools leave pointers in a clone whose content was not downloaded: a small text file, or for
    git-annex a link to a file that is not there. A link that leads to itself is a fault as well.
    """
    file = Path(file)
    try:
        if file.stat().st_size >= MAX_POINTER_BYTES:
            return ""
        with file.open("rb") as content:
            start = content.read(MAX_POINTER_BYTES)
    except FileNotFoundError:
        start = os.fsencode(os.readlink(file)) if file.is_symlink() else b""
    except IsADirectoryError:
        return ""
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a symbolic link that leads back to itself; delete it, or restore its target"
        raise
    if LFS_POINTER.match(start):
        return "is a pointer of git-lfs, not the file itself; run `git lfs pull` in its repository"
    if ANNEX_POINTER.match(start):
        return (
            "is a pointer of git-annex, not the file itself; run `git annex get` on it in its "
            "repository"
        )
    return ""


def refuse_pointer(file: Path | str) -> None:
    """Check that a file of weights or data is not a pointer of git-lfs or git-annex.

    Raises:
        ValueError: if it is one, or a link that leads to itself.
    """
    if fault := pointer_fault(file):
        raise ValueError(f"{file} {fault}")


def refuse_pointers(files: Sequence[Path | str], most: int = 1000) -> None:
    """Check ``most`` of many files, evenly spread over them, as ``refuse_pointer`` does.

    Raises:
        ValueError: naming the first one that is a pointer of git-lfs or git-annex.
    """
    for file in files[:: max(1, math.ceil(len(files) / most))]:
        refuse_pointer(file)


def find_file(path: Path, names: Sequence[str], expected: str) -> Path:
    """Return the file itself, or the first of the ``names`` that a folder has.

    Args:
        expected: what the path should be, for the messages.

    Raises:
        ValueError: if there is none, or it is a pointer of git-lfs or git-annex.
    """
    if path.is_dir():
        found = next((path / name for name in names if (path / name).exists()), None)
        if found is None:
            raise ValueError(
                f"{path} has none of the files {', '.join(names)}; expected {expected}"
            )
        path = found
    refuse_pointer(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected {expected}")
    return path
