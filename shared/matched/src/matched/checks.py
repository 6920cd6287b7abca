"""Checks of config fields: counts, choices, divisors, fractions; values in messages."""

from __future__ import annotations

from typing import Any

MAX_SHOWN = 80
"""Characters of a value that a message shows."""


def check_counts(config: Any, *names: str, minimum: int = 1) -> None:
    """Raise ValueError unless each of the fields is a whole number of ``minimum`` or more."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < minimum:
            raise ValueError(f"{name} is {value!r}; expected a whole number of {minimum} or more")


def check_fractions(config: Any, *names: str) -> None:
    """Raise ValueError unless each of the fields is in the interval from 0 to 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected 0 to 1")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the field ``name`` is one of ``choices``."""
    if getattr(config, name) not in choices:
        *first, last = map(repr, choices)
        expected = f"{', '.join(first)} or {last}"
        raise ValueError(f"{name} is {getattr(config, name)!r}; expected {expected}")


def check_divides(name: str, part: int, whole_name: str, whole: int) -> None:
    """Raise ValueError unless ``whole`` is a multiple of ``part``."""
    if whole % part:
        raise ValueError(
            f"{name} {part} does not divide {whole_name} {whole}: {whole % part} would be left over"
        )


def short_repr(value: object) -> str:
    """Return the representation of a value, cut to ``MAX_SHOWN`` characters."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
