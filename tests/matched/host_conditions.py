"""Fixtures for conditions of a host: hidden processes and read-only folders."""

import os
import subprocess
from pathlib import Path

import pytest

from matched import process_identity


@pytest.fixture
def hidepid(tmp_path_factory, monkeypatch):
    """Return a function that hides all processes, as those of other users with hidepid=2."""

    def hide() -> None:
        proc = tmp_path_factory.mktemp("proc")
        for folder in ("sys/kernel/random", "self/ns"):
            (proc / folder).mkdir(parents=True)
        boot_id = Path("/proc/sys/kernel/random/boot_id")
        (proc / "sys/kernel/random/boot_id").write_text(boot_id.read_text())
        (proc / "self/ns/pid").symlink_to(os.readlink("/proc/self/ns/pid"))
        monkeypatch.setattr(process_identity, "PROC", proc)
        monkeypatch.setattr(os, "kill", refuse_to_probe)

    real = os.kill

    def refuse_to_probe(pid: int, number: int) -> None:
        if number == 0:
            raise PermissionError(1, "Operation not permitted")
        real(pid, number)

    return hide


@pytest.fixture
def read_only():
    """Return a function that makes a folder read-only, even for root."""
    undo = []

    def make(folder: Path) -> None:
        if os.getuid():
            folder.chmod(0o555)
            undo.append(lambda: folder.chmod(0o755))
            return
        for options in (["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
            if subprocess.run(["/bin/mount", *options], capture_output=True).returncode:
                pytest.skip("root may not mount here, and may write everywhere else")
            if len(options) == 3 and options[0] == "--bind":
                undo.append(lambda: subprocess.run(["/bin/umount", folder], check=True))

    yield make
    for step in reversed(undo):
        step()
