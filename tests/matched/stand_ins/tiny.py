"""A task that computes nothing, for tests of the harness.

Its behavior is set by files, not by its config, because the arms of a row must have equal configs:
``trouble/<model>.<norm>.<seed>`` in the project folder names one of the behaviors in ``train``.
"""

import importlib
import json
import os
import signal
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

from matched import Context, Outcome, signals


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
        means = f"{context.num_workers} loaders{', sharded' if context.shard else ''}"
        file.write(f"{name} {context.signature} with {means} from {' '.join(order)}\n")
    weights = f"weights of {config.model} {config.seed}"
    trouble = root() / "trouble" / name
    what = trouble.read_text(encoding="utf-8") if trouble.exists() else "none"
    if what == "raise":
        raise ValueError("the tiny task was told\nto fail [/here] at [data]")
    if what == "says blocked by":
        raise ValueError("blocked by a firewall")
    if what == "die":
        os._exit(9)
    if what == "wait" or (what == "rank 0 waits" and context.rank == 0):
        _go_on(context, obey=False)
    if what == "steps":
        _go_on(context, obey=True)
    if what.startswith("gets"):  # a signal, and saves a step, or a file, or nothing
        _, number, *saving = what.split()
        _ask_to_stop(context, signal.Signals[number], *saving)
    if what == "is taken over":
        taken = context.directory / "owners" / "000009.json"
        job = {"job": "local:far:7", "user": "0", "token": "t9", "folder": "", "at": 0.0}
        record = {**job, "host": "far", "place": {"kernel": "x", "pid": 7}}
        taken.write_text(json.dumps(record), encoding="utf-8")
    if what in ("meets", "rank 1 raises", "rank 1 raises early", "rank 1 dies once"):
        _meet(context, what)
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
    best = {"top1": score + 1, "step": 2}
    return Outcome(metrics={"top1": score, "fid": 100 - score}, best=best, steps=3)


def _go_on(context: Context, obey: bool) -> None:
    """Take steps from the last checkpoint on until the file "go" exists or a signal arrives."""
    folder = context.directory / "checkpoints"
    step = max((int(path.name.removeprefix("step_")) for path in folder.glob("step_*")), default=0)
    with (root() / "started").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {step}\n")
    deadline = time.monotonic() + 60  # a failed test may not create "go"
    while not (root() / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
        step += 1
        if obey and signals.stop_signal():
            (folder / f"step_{step}").touch()
            raise signals.Interrupted


def _ask_to_stop(context: Context, number: signal.Signals, save: str = "") -> None:
    os.kill(os.getpid(), number)
    while not signals.stop_signal():
        time.sleep(0.001)
    if save == "saving":
        (context.directory / "checkpoints" / "step_1").touch()
    if save == "filling":
        (context.directory / "shards").mkdir()
        (context.directory / "shards" / "000000.npy.sha256").touch()
    if save == "failing":
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
    if save == "losing":
        raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer")
    raise signals.Interrupted


def _meet(context: Context, what: str) -> None:
    """Let all processes of the run pass two barriers, unless the second one fails or is killed."""
    import torch.distributed as dist

    from matched.training.distributed import process_group

    second = context.rank == 1
    if what == "rank 1 raises early" and second:
        raise ValueError("the second process never came")
    with process_group(context):
        dist.barrier()
        if what == "rank 1 raises" and second:
            raise ValueError("the second process failed")
        mark = root() / "died"
        if what == "rank 1 dies once" and second and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "rank 1 dies once" and not second:
            time.sleep(0.1)
        dist.barrier()


def _make_haste() -> None:
    """Shorten intervals as TINY_HASTE says, a JSON object such as {"watch.POLL_SECONDS": 0.05}.

    TINY_BARE: tasks here need one module of ``matched.training``; do not load the others.
    """
    for name, seconds in json.loads(os.environ.get("TINY_HASTE", "{}")).items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(f"matched.{module}"), constant, seconds)
    if "TINY_BARE" in os.environ:
        bare = types.ModuleType("matched.training")
        bare.__path__ = [str(Path(signals.__file__).parent / "training")]
        sys.modules["matched.training"] = bare


_make_haste()
