"""Parsers of the logs of training scripts: records with a step and numbers, in the log's order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, float]
"""Numbers by the names of the script. "step" is what its log counts from the start: epochs, updates
or batches. "epoch" is present only if the log has it."""
POSITION = ("step", "epoch")
"""Keys of a record of a log that are not metrics."""
ATTEMPT = "attempt"
"""Key of the number of the attempt that logged a record, from the second one on."""
Parser = Callable[[Path, Sequence[str]], list[Record]]
"""(folder of the script's files, lines that it printed) → records."""
BAR = re.compile(r"Epoch (\d+): .*\| (\d+)/(\d+) \[")
SHOWN = re.compile(r"([\w/]+)=([^,\]\s]+)")


def json_lines(file: str, step: str = "epoch") -> Parser:
    """Return a parser of a file with a JSON object per line.

    Args:
        file: glob of the file in the folder of the script's files.
        step: the key of the step.
    """

    def parse(folder: Path, printed: Sequence[str]) -> list[Record]:
        paths = sorted(folder.glob(file))
        return json_records([line for path in paths for line in _lines(path)], (step,))

    return parse


def printed_json(*steps: str) -> Parser:
    """Return a parser of JSON objects in printed lines, which text may precede.

    Args:
        steps: keys of the step; an object has one of them.
    """

    def parse(folder: Path, printed: Sequence[str]) -> list[Record]:
        return json_records([line[line.find("{") :] for line in printed if "{" in line], steps)

    return parse


def matches(pattern: str, file: str = "") -> Parser:
    """Return a parser of lines of text, for scripts that have no other log.

    Args:
        pattern: a regular expression whose named groups are numbers, "step" among them. Lines of
            the same step are joined.
        file: glob of the file; the printed lines without it.
    """
    expression = re.compile(pattern)

    def parse(folder: Path, printed: Sequence[str]) -> list[Record]:
        lines = printed
        if file:
            lines = [line for path in sorted(folder.glob(file)) for line in _lines(path)]
        found = [expression.search(line) for line in lines]
        records = [
            {name: float(text) for name, text in match.groupdict().items() if text is not None}
            for match in found
            if match
        ]
        return latest_by_step(records)

    return parse


def lightning_bar(folder: Path, printed: Sequence[str]) -> list[Record]:
    """Parse the progress bar of Lightning 1.9, whose numbers have four digits.

    Steps are batches since the start of training, those of validations among them: epoch · batches
    of an epoch + position. The bar repeats the numbers of the last epoch and validation, of which
    only changes are kept, and it jumps back before its epoch changes.
    """
    records: list[Record] = []
    shown: Record = {}
    for line in printed:
        if not (match := BAR.match(line)):
            continue
        epoch, batch, batches = map(int, match.groups())
        step = epoch * batches + batch
        if records and step < records[-1]["step"]:
            continue
        numbers = _numbers(dict(SHOWN.findall(line[match.end() :])))
        new = {k: v for k, v in numbers.items() if k == "loss" or v != shown.get(k)}
        shown |= numbers
        records.append({"step": step, "epoch": epoch, **new})
    return latest_by_step(records)


def json_records(lines: Sequence[str], steps: Sequence[str]) -> list[Record]:
    """Return the records of JSON lines; lines that are no object with a step are left out."""
    records = []
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if not isinstance(content, dict):
            continue
        numbers = _numbers(content)
        if found := [numbers[step] for step in steps if step in numbers]:
            others = {k: v for k, v in numbers.items() if k == "epoch" or k not in steps}
            records.append({"step": found[0], **others})
    return latest_by_step(records)


def latest_by_step(records: Sequence[Record]) -> list[Record]:
    """Join records of the same step, later ones last: a resumed script logs some steps again."""
    by_step: dict[float, Record] = {}
    for record in records:
        by_step.setdefault(record["step"], {}).update(record)
    return [by_step[step] for step in sorted(by_step)]


def renamed(record: Mapping[str, float], names: Mapping[str, str]) -> Record:
    """Return the numbers of a record under our names; those without one are left out."""
    return {ours: record[theirs] for theirs, ours in names.items() if theirs in record}


def _numbers(content: Mapping[str, Any]) -> Record:
    """Return the numbers of a JSON object; some logs write them as strings."""
    numbers = {}
    for key, value in content.items():
        if isinstance(value, bool):
            continue
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
