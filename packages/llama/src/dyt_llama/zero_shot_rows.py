"""Checks of the rows of the zero-shot tasks: texts, choices, and answers that are choices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyt_llama.zero_shot_tasks import FIFTEEN
from matched.checks import short_repr

LISTS = ("endings", "entities", "answers")
"""Columns with a list of texts."""
CHOICES = {
    "choices": ("text", "label"),
    "mc1_targets": ("choices", "labels"),
    "mc2_targets": ("choices", "labels"),
}
"""Columns with choices: names of the two lists of equal lengths, of which the first has texts."""
OFFSETS = ("start1", "end1")
ANSWERS = ("label", "answer", "answerKey")


def check_rows(task: str, rows: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Refuse rows that lm-eval would count as mistakes of the network, or stop at.

    Splits whose answers are secret have -1 or "".

    Raises:
        ValueError: naming task, file, row and column of the first of them.
    """
    for number, row in enumerate(rows, 1):
        for column, expected in _faults(task, row):
            raise ValueError(
                f"{task}: {file}, row {number}, has the {column} {short_repr(row[column])}; "
                f"expected {expected}, as in {FIFTEEN[task].source}"
            )


def _faults(task: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each column whose value cannot be scored, and what is expected there."""
    for column in FIFTEEN[task].columns:
        value = row[column]
        if column in LISTS:
            if not _are_texts(value):
                yield column, "a list of texts"
        elif column in CHOICES:
            if not _are_choices(value, *CHOICES[column]):
                texts, labels = CHOICES[column]
                yield column, f"{texts!r} with a list of texts and {labels!r} with as many labels"
        elif column in OFFSETS:
            if type(value) is not int:
                yield column, "a whole number"
        elif column not in ANSWERS and not isinstance(value, str):
            yield column, "text"
    if task == "winogrande" and "_" not in row["sentence"]:
        yield "sentence", "a text with _ in place of the option"
    yield from _wrong_answers(task, row)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _are_choices(value: Any, texts: str, labels: str) -> bool:
    return (
        isinstance(value, Mapping)
        and _are_texts(value.get(texts))
        and isinstance(value.get(labels), list)
        and len(value[texts]) == len(value[labels])
    )


def _wrong_answers(task: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for column in FIFTEEN[task].columns:
        if column not in ANSWERS:
            continue
        valid = _possible_answers(task, row)
        if row[column] not in valid or type(row[column]) is not type(valid[0]):
            kind = "the number of a choice" if column == "label" else "a choice"
            yield column, f"{kind}, one of {', '.join(map(repr, valid))}"


def _possible_answers(task: str, row: Mapping[str, Any]) -> Sequence[Any]:
    """Return the values that the answer may have."""
    if "choices" in row:
        labels: Sequence[Any] = row["choices"]["label"]
        return labels
    if task == "winogrande":
        return ("1", "2")
    if task == "hellaswag":  # its labels are text
        return [str(number) for number in range(len(row["endings"]))]
    return range(3 if task.startswith("anli") else 2)
