"""Checksums of files written by ``torch.save``: torch writes them, but does not verify them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO


def verify_checksums(file: Path | IO[bytes]) -> None:
    """Check every entry of a file written by ``torch.save``.

    Raises:
        ValueError: naming an entry whose checksum is wrong.
        BadZipFile: if it is not such a file.
    """
    with zipfile.ZipFile(file) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} in it is wrong")


def verify_if_present(file: Path) -> None:
    """Like ``verify_checksums``, for files of any version of torch: before 1.6 they had none.

    Raises:
        ValueError: naming an entry whose checksum is wrong.
    """
    if zipfile.is_zipfile(file):
        verify_checksums(file)
