"""Argument checks shared by the configuration and the layers, independent of torch."""

from __future__ import annotations

import math
from numbers import Real


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of the names in `choices`."""
    if not (isinstance(value, str) and value in choices):
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name} = {value!r} is unknown. Use one of {expected}.")


def check_number(name: str, value: object) -> float:
    """Return `value` as a float; raise ValueError unless it is a finite number (and not a bool)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(
            f"{name} = {value!r} is not a finite number. Pass an int or a float, such as 0.5."
        )
    return float(value)


def check_alpha0(name: str, value: object) -> float:
    """Return `value` as a float; raise ValueError unless it is a positive finite number."""
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(
            f"{name} = {value!r} is not positive; α0 must be > 0, as tanh(αx) would otherwise not"
            " increase with x. Pass a positive number, such as 0.5, or alpha='absent' for a layer"
            " without α."
        )
    return number
