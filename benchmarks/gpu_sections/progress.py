"""Progress of the GPU benchmark: CSV files of whole parts, and what failed or was left out.

Files are replaced atomically, under a lock of the folder, so that several calls may share it. A
part is whole if its rows exist for the same card, the same sources of the kernels, and the same
size of the measurement (reduced or not). A part that has begun is a failure until it ends: a killed
call leaves that one row.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import measuring
import torch

from gpu_sections import Row

FAILURES = "failures.csv"
RUNNING = "begun, and not ended"
START = "(start)"  # in place of a part
SOURCES = Path(__file__).parents[2] / "shared/dyt/src/dyt"
SAME = ("hardware", "kernels", "reduced")  # columns that two rows of a part must share


def kernel_sources() -> str:
    """Return a hash of the modules that compute DyT, 8 hex digits."""
    digest = hashlib.sha256()
    for file in sorted([*SOURCES.glob("backends/*.py"), *SOURCES.glob("functional.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def environment(device: str) -> Row:
    """Return the columns that every row has: the card, versions, time, size and sources."""
    return {
        **measuring.environment(device),
        "cuda": torch.version.cuda or "",
        "driver": driver_version() if device == "cuda" else "",
        "kernels": kernel_sources(),
        "reduced": "yes" if device == "cpu" else "no",
    }


def driver_version() -> str:
    """Return the version of the GPU's driver, or an empty string if nvidia-smi does not say it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ended.stdout.split("\n", 1)[0].strip()


@dataclass(frozen=True)
class Progress:
    """The files of one section in the output folder.

    Attributes:
        environment: the columns of the function `environment`.
        process: the number of this one of the processes that measure the section.
    """

    folder: Path
    section: str
    environment: Row
    process: int = 0

    @property
    def file(self) -> Path:
        return self.folder / f"{self.section}.csv"

    def whole(self) -> set[str]:
        """Return the names of the parts that need no measurement."""
        return {row["part"] for row in measuring.read(self.file) if self._is_same(row)}

    def failed(self) -> dict[str, str]:
        """Return the reason of each part that failed, was left out, or was killed with its call."""
        return {row["part"]: row["reason"] for row in self._failures() if self._is_same(row)}

    def failed_in_this_call(self) -> dict[str, str]:
        """Return the failures that are not older than `environment`."""
        started = str(self.environment["time"])
        new = {row["part"] for row in self._failures() if row["time"] >= started}
        return {part: reason for part, reason in self.failed().items() if part in new}

    def begin(self, part: str) -> None:
        """Record that a part has begun, for the case that its process or the call is killed."""
        self._record(part, self._running)

    def running(self) -> str | None:
        """Return the part that this process of this call has begun and that has not ended."""
        failed = self.failed_in_this_call().items()
        return next((part for part, reason in failed if reason == self._running), None)

    @property
    def _running(self) -> str:
        return f"{RUNNING} by process {self.process}" if self.process else RUNNING

    def complete(self, part: str, rows: Iterable[Row]) -> None:
        """Add the rows of a whole part; earlier rows and failures of it are replaced."""
        with self._locked():
            known = [row for row in measuring.read(self.file) if not self._is_of(row, part)]
            added = [{"part": part, **row, **self.environment} for row in rows]
            _replace(self.file, [*known, *added])
        self._record(part, None)

    def fail(self, part: str, reason: str) -> None:
        """Record why a part has no rows."""
        self._record(part, reason)

    def fail_start(self, reason: str) -> None:
        """Record why the section's process measured no part."""
        self._record(START, reason)

    def clear_start(self) -> None:
        """Remove what `fail_start` recorded."""
        self._record(START, None)

    def _record(self, part: str, reason: str | None) -> None:
        with self._locked():
            file = self.folder / FAILURES
            rows: list[Row] = [
                dict(row) for row in measuring.read(file) if not self._is_failure(row, part)
            ]
            if reason is not None:
                rows.append(
                    {"section": self.section, "part": part, "reason": reason, **self.environment}
                )
            _replace(file, rows)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, which ends with the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _failures(self) -> list[dict[str, str]]:
        rows = measuring.read(self.folder / FAILURES)
        return [row for row in rows if row["section"] == self.section]

    def _is_failure(self, row: dict[str, str], part: str) -> bool:
        return row["section"] == self.section and self._is_of(row, part)

    def _is_of(self, row: dict[str, str], part: str) -> bool:
        return row["part"] == part and self._is_same(row)

    def _is_same(self, row: dict[str, str]) -> bool:
        return all(row[column] == str(self.environment[column]) for column in SAME)


def _replace(file: Path, rows: list[Row]) -> None:
    """Write rows to a CSV file; its columns are those of all rows, in the order of appearance."""
    if not rows:
        file.unlink(missing_ok=True)
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    temporary = file.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, file)
