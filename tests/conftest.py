"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

from dyt_wav2vec import fairseq_compat

collect_ignore = ["wav2vec"] if fairseq_compat.python_refusal() else []


@pytest.fixture
def disk_events(monkeypatch):
    """Record (kind, name, …) of every file and folder that is synced or renamed from now on.

    ("sync", name, bytes that are synced; None for a folder) and ("rename", name, new name).
    """
    events = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def record_sync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        events.append(("sync", path.name, None if path.is_dir() else path.stat().st_size))
        fsync(handle)

    def record_rename(move):
        def moved(path, target):
            events.append(("rename", path.name, Path(target).name))
            return move(path, target)

        return moved

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_rename(replace))
    monkeypatch.setattr(Path, "rename", record_rename(rename))
    return events
