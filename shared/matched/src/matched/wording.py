"""Words of messages and tables: numbers with their nouns."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return "1 run" or "2 runs": the number, and the noun with an s unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
