"""A task that computes nothing, so that the tests of the harness are about the harness.

What it does is told by files and not by its config, for two arms of a row have to be alike:
``trouble/<model>.<norm>.<seed>`` in the project's folder names one of those that ``train`` knows.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from matched import Context, Outcome


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    norm: str = "LN"
    model: str = "small"
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    epochs: int = 1
    data: tuple[str, ...] = ()


def root() -> Path:
    return Path(os.environ["MATCHED_ROOT"])


def train(context: Context, config: Config) -> Outcome:
    name = f"{config.model}.{config.norm}.{config.seed}"
    order = sorted(context.needs) or ["nothing"]
    with (root() / "computed.txt").open("a", encoding="utf-8") as file:
        file.write(f"{name} {context.signature} from {' '.join(order)}\n")
    weights = f"weights of {config.model} {config.seed}"
    trouble = root() / "trouble" / name
    what = trouble.read_text(encoding="utf-8") if trouble.exists() else "none"
    if what == "raise":
        raise ValueError("the tiny task was told\nto fail [/here] at [data]")
    if what == "die":
        os._exit(9)
    if what == "wait" or (what == "rank 0 waits" and context.rank == 0):
        (root() / "started").touch()
        deadline = time.monotonic() + 60  # a test that failed tells nobody to go
        while not (root() / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    if what == "other weights":
        weights += ", of another kind"
    prints = {"weights": weights, "batches": [f"batch {config.seed}"]}
    (context.directory / "fingerprint.json").write_text(json.dumps(prints), encoding="utf-8")
    score = 80.0 + config.seed + (0.5 if config.norm == "DyT" else 0.0)
    if what == "diverge":
        return Outcome(metrics={"top1": 40.0}, best={"top1": 40.0}, diverged=True, steps=2)
    if what == "diverge at once":
        return Outcome(metrics={}, diverged=True, steps=1)
    if what == "no outcome":
        return None
    if what == "live metric":
        return Outcome(metrics={"top1": {1, 2}}, steps=3)
    return Outcome(metrics={"top1": score, "fid": 100 - score}, steps=3)
