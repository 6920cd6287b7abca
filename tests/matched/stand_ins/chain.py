"""Four tasks, each of which needs the one before; ``trouble/<task>`` makes one fail."""

import json
from dataclasses import dataclass

from tiny import root

from matched import Context, Outcome


@dataclass(frozen=True, kw_only=True)
class Encode:
    """A config without norm and seed, like that of a data cache."""

    size: int = 8


@dataclass(frozen=True, kw_only=True)
class Train:
    seed: int = 0
    norm: str = "LN"
    model: str = "small"


@dataclass(frozen=True, kw_only=True)
class Sample:
    seed: int = 0
    count: int = 4


@dataclass(frozen=True, kw_only=True)
class Score:
    count: int = 4


def encode(context: Context, config: Encode) -> Outcome:
    return _made(context, "encode")


def encode_without_fingerprint(context: Context, config: Encode) -> Outcome:
    outcome = _made(context, "encode")
    (context.directory / "fingerprint.json").unlink()
    return outcome


def train(context: Context, config: Train) -> Outcome:
    return _made(context, f"train {config.model} {config.norm} {config.seed}")


def sample(context: Context, config: Sample) -> Outcome:
    return _made(context, "sample")


def score(context: Context, config: Score) -> Outcome:
    return _made(context, "score")


def _made(context: Context, name: str) -> Outcome:
    """Write the name of this task and the lines of its needs as one line."""
    if (root() / "trouble" / name).exists():
        raise ValueError("no room for it")
    with (root() / "computed.txt").open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    made = {
        need: (path / "made.txt").read_text(encoding="utf-8")
        for need, path in sorted(context.needs.items())
    }
    words = ", ".join(f"{need}: {text}" for need, text in made.items())
    (context.directory / "made.txt").write_text(f"{name}({words})", encoding="utf-8")
    prints = {"weights": "w", "batches": ["b"]}
    (context.directory / "fingerprint.json").write_text(json.dumps(prints), encoding="utf-8")
    return Outcome(metrics={"top1": 80.0}, steps=1)
