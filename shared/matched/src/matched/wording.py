"""Words of messages and tables: numbers with their nouns, and names that users type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """Return "1 run" or "2 runs": the number, and the noun with an s unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def match_name(name: str, known: Iterable[str], what: str) -> str:
    """Return the known name that equals ``name`` up to upper and lower case.

    Raises:
        ValueError: listing the known names, nearest first; ``what`` says what they are names of.
    """
    known = list(known)
    for candidate in known:
        if candidate.lower() == name.lower():
            return candidate
    raise ValueError(unknown_name(name, known, what))


def unknown_name(name: str, known: list[str], what: str) -> str:
    """Return the message about a name that is not among the known ones."""
    return f"unknown {what}: {name!r}; {known_names(name, known)}"


def known_names(name: str, known: list[str]) -> str:
    """Return "known, nearest first: …"; names with a comma are separated by semicolons."""
    near = difflib.get_close_matches(name, known, n=len(known) or 1, cutoff=0.0)
    separator = "; " if any("," in one for one in known) else ", "
    return f"known, nearest first: {separator.join(near) or 'none'}"
