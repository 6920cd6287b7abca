"""Checks that configs make of their fields: what was given, and what was expected."""

from __future__ import annotations

from typing import Any


def check_counts(config: Any, *names: str) -> None:
    """
    Raises:
        ValueError: for a field that is no whole number of 1 or more.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number of 1 or more")


def check_shares(config: Any, *names: str) -> None:
    """
    Raises:
        ValueError: for a field that is not from 0 to 1.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected 0 to 1")


def check_choice(config: Any, name: str, known: tuple[str, ...]) -> None:
    """
    Raises:
        ValueError: for a field that is none of ``known``.
    """
    if getattr(config, name) not in known:
        *others, last = map(repr, known)
        expected = f"{', '.join(others)} or {last}"
        raise ValueError(f"{name} is {getattr(config, name)!r}; expected {expected}")


def check_divides(name: str, part: int, whole_name: str, whole: int) -> None:
    """
    Raises:
        ValueError: if ``whole`` is no multiple of ``part``.
    """
    if whole % part:
        raise ValueError(
            f"{name} {part} does not divide {whole_name} {whole}: {whole % part} would be left over"
        )
