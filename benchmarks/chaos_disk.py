"""Runs on a full disk: one clear line, complete files stay intact, the resumed run is the same."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from chaos_project import Project, console, row, same, wait_until

ONE_RUN = """
RUN = SCALE.runs["vit_b"]
SHORT = replace(RUN, config=replace(RUN.config, epochs=5))
SCALE = replace(SCALE, seeds=(0,), runs={"vit_b": SHORT})
"""
LAST = ("step_00000200.pt", "step_00000220.pt")
CELL = ("run", "table1", "--row", "vit_b", "--arm", "LN")


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system of that size on ``folder``.

    Raises:
        PermissionError: if it cannot be mounted.
    """
    folder.mkdir()
    process = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
        capture_output=True,
    )
    if process.returncode:
        raise PermissionError(process.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk(folder: Path, seed: int) -> list[dict[str, Any]]:
    site = "[runs]\nfolder = '{}'\ncheckpoint_steps = 20\n"
    reference = Project(folder / "reference", site.format("runs"), ONE_RUN)
    console.print("disk: the undisturbed run")
    assert reference.matched(*CELL)[0] == 0
    (undisturbed,) = reference.runs().values()
    rows = []
    moments = {"a checkpoint": _fill_during_training, "the result": _fill_before_result}
    for what, fill in moments.items():
        rows.append(row(f"disk full at {what}", "missed the right moment", "", False))
        for attempt in range(8):
            console.print(f"disk: full while {what} is written")
            try:
                with small_disk(folder / f"{what[-6:]}-{attempt}", 64 * 1024) as mount:
                    found = _run_on_full_disk(mount, what, fill, site, undisturbed)
            except PermissionError as error:
                found = row(f"disk full at {what}", f"not measured: {error}", "", True)
            if found is not None:
                rows[-1] = found
                break
    return rows


def _run_on_full_disk(
    mount: Path, what: str, fill: Any, site: str, undisturbed: Path
) -> dict[str, Any] | None:
    """Fill the disk during a run, then make room and resume it; None if the run was faster."""
    project = Project(mount.parent / f"project-{mount.name}", site.format(mount / "runs"), ONE_RUN)
    process = project.start(*CELL)
    (run,) = wait_until(lambda: list(mount.glob("runs/*/*/checkpoints")))
    ballast = mount / "ballast"
    in_time = fill(run, process.pid, ballast)
    out, _ = process.communicate()
    if not in_time:
        return None
    lines = [line for line in out.splitlines() if "matched: error:" in line]
    checkpoints_load = all(_loads(path) for path in run.glob("step_*.pt"))
    one_clear_line = process.returncode == 2 and len(lines) == 1 and "Traceback" not in out
    console.print(f"  its error: {lines[-1] if lines else out[-300:]}", highlight=False)
    ballast.unlink()
    code, _ = project.matched(*CELL)
    resumed_same = code == 0 and same(run.parent, undisturbed)
    good = one_clear_line and checkpoints_load and resumed_same
    bound = "one clear line, complete files stay intact, ends bit-identically"
    return row(f"disk full at {what}", bound if good else f"exit {process.returncode}: {lines}",
                bound, good)  # fmt: skip


def _fill_during_training(run: Path, pid: int, ballast: Path) -> bool:
    wait_until(lambda: (run / "step_00000020.pt").exists())
    _fill(ballast, 700)
    return True


def _fill_before_result(run: Path, pid: int, ballast: Path) -> bool:
    """Stop the process in the few milliseconds between its last checkpoint and its result."""
    before, last = (run / name for name in LAST)
    wait_until(before.exists)
    while not last.exists():
        pass
    os.kill(pid, signal.SIGSTOP)
    in_time = not (run.parent / "result.json").exists()
    if in_time:
        # The process will delete older checkpoints; open files keep that from freeing space.
        open_files = [path.open("rb") for path in run.glob("step_*.pt")]
        _fill(ballast, 0)
    os.kill(pid, signal.SIGCONT)
    if in_time:
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid))
        for file in open_files:
            file.close()
    return in_time


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _fill(path: Path, leave_kilobytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    with contextlib.suppress(OSError), path.open("wb") as file:
        file.write(b"\0" * max(0, free - 1024 * leave_kilobytes))


def _loads(path: Path) -> bool:
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True
