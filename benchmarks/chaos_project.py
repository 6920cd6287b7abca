"""Projects that contain one table, bit-by-bit comparison of their runs, and rows of the result."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
console = Console(stderr=True)


class Project:
    """A project folder with the recipe of a table of the CVPR paper and a site.toml.

    Args:
        changes: lines at the end of the smoke scale's page, which redefine SCALE.
        table: name of the recipe's file.
    """

    def __init__(
        self, root: Path, site: str, changes: str, *, table: str = "table01", **environment: str
    ) -> None:
        self.root = root
        (root / "recipes" / "cvpr2025" / "smoke").mkdir(parents=True)
        for name in ("paper.toml", "smoke_norms.py", "cvpr2025/arms.py", f"cvpr2025/{table}.py"):
            shutil.copy(ROOT / "recipes" / name, root / "recipes" / name)
        page = f"recipes/cvpr2025/smoke/{table}.py"
        text = (ROOT / page).read_text(encoding="utf-8")
        (root / page).write_text(text + changes, encoding="utf-8")
        (root / "site.toml").write_text(site, encoding="utf-8")
        self.environment = {
            **os.environ, **environment, "MATCHED_ROOT": str(root), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(
        self, *arguments: str, stdout: Any = subprocess.PIPE, processes: int = 1
    ) -> subprocess.Popen[str]:
        """Start a command; several processes run under torchrun, in a new process group."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return subprocess.Popen(
            [
                sys.executable,
                *(torchrun if processes > 1 else []),
                "-m",
                "matched",
                *arguments,
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=processes > 1,
        )

    def matched(self, *arguments: str) -> tuple[int, str]:
        """Run a command; return its exit code and output."""
        # A file, because jobs that outlive a submission would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            process = self.start(*arguments, stdout=output)
            process.wait()
            output.seek(0)
            return process.returncode, output.read()

    def runs(self) -> dict[str, Path]:
        """Map signatures to run directories."""
        return {p.parent.name: p.parent for p in self.root.glob("runs/*/*/config.json")}

    def finished(self) -> int:
        return len(list(self.root.glob("runs/*/*/result.json")))


def same(one: Path, other: Path) -> bool:
    """True if two run directories differ only in times and paths."""
    for name in ("metrics.jsonl", "fingerprint.json"):  # some tasks write only a result
        if _content(one / name) != _content(other / name):
            return False
    results = [json.loads((path / "result.json").read_text()) for path in (one, other)]
    if any(results[0][k] != results[1][k] for k in ("outcome", "metrics", "best", "steps")):
        return False
    newest = [max((p / "checkpoints").glob("step_*.pt"), default=None) for p in (one, other)]
    if None in newest:
        return newest == [None, None]
    return _equal(*(torch.load(path, weights_only=True) for path in newest))


def same_but_for_rounding(one: Path, other: Path, tolerance: float) -> bool:
    """True if two runs have equal initial weights and, to a relative tolerance, equal metrics.

    The hashes of the first batches are not compared: they depend on the number of processes.
    """
    weights = [json.loads((p / "fingerprint.json").read_text())["weights"] for p in (one, other)]
    if weights[0] != weights[1]:
        return False
    results = [json.loads((path / "result.json").read_text()) for path in (one, other)]
    metrics, expected = (result["metrics"] for result in results)
    return results[0]["steps"] == results[1]["steps"] and all(
        math.isclose(metrics[key], value, rel_tol=tolerance) for key, value in expected.items()
    )


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def wrong_files(project: Project, expected: int) -> int:
    """Count the results that are missing, half-written or were written twice."""
    wrong = max(0, expected - project.finished())
    for path in project.runs().values():
        try:
            json.loads((path / "result.json").read_text())
        except (OSError, ValueError):
            wrong += 1
        done = [line for line in (path / "log.txt").open() if f"{path.name} done" in line]
        wrong += len(done) > 1 or bool(list(path.rglob("*.damaged-*")))
    return wrong


def identical(disturbed: Project, reference: Project) -> list[str]:
    """Return the signatures of the runs that ended as in the undisturbed project."""
    expected = reference.runs()
    return [name for name, path in disturbed.runs().items() if same(path, expected[name])]


def wait_until(condition: Any, seconds: float = 120) -> Any:
    """Poll until the condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited more than {seconds:g} s")
        time.sleep(0.01)
    return value


def row(what: str, measured: str, bound: str, good: bool) -> dict[str, Any]:
    return {"what": what, "measured": measured, "bound": bound, "good": good}
