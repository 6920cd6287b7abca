"""metrics.jsonl of a script's run: lines from the records of its log, over all attempts.

Some scripts print their log, and a resumed one prints only what it computes itself. The lines of
earlier attempts are then kept up to the first step that the resumed script logs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from dyt_upstream.records import ATTEMPT, POSITION, Record
from matched.files import read_json_lines


def read(path: Path) -> list[Record]:
    """Return the records of a file that ``text`` wrote; none if there is no file."""
    by_step: dict[int, Record] = {}
    for line in read_json_lines(path, ("step",)):
        record = by_step.setdefault(line["step"], {})
        for key, value in {**line, **line.get("evaluation", {})}.items():
            if key != "evaluation":
                record[key] = math.nan if value is None else value
    return [by_step[step] for step in sorted(by_step)]


def join(earlier: Sequence[Record], own: Sequence[Record]) -> list[Record]:
    """Return the records of all attempts; those of a resumed one have its number.

    Args:
        earlier: of the attempts before.
        own: of this attempt. If its log has the earlier attempts too, it replaces all of them.
    """
    kept = [record for record in earlier if not own or record["step"] < own[0]["step"]]
    if not kept:
        return list(own)
    attempt = 1 + max(record.get(ATTEMPT, 1) for record in kept)
    return [*kept, *({**record, ATTEMPT: attempt} for record in own)]


def text(records: Sequence[Record], evaluated: Collection[str]) -> str:
    """Return the lines of records: the loss, and the other metrics as an evaluation.

    Args:
        evaluated: names of the metrics that belong to evaluations.
    """
    lines = (line for record in records for line in _lines(record, evaluated))
    return "".join(json.dumps(line) + "\n" for line in lines)


def _lines(record: Record, evaluated: Collection[str]) -> Iterator[dict[str, Any]]:
    values = {k: v if math.isfinite(v) else None for k, v in record.items()}
    position: dict[str, Any] = {k: record[k] for k in (*POSITION, ATTEMPT) if k in record}
    position["step"] = int(record["step"])
    if "loss" in values:
        yield {**position, "loss": values["loss"]}
    if evaluation := {k: v for k, v in values.items() if k in evaluated}:
        yield {**position, "evaluation": evaluation}
