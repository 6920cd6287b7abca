"""Rows of checks that pass or fail."""

from __future__ import annotations

from gpu_sections import Row


def check(name: str, worst: float) -> Row:
    """Return the row of a comparison: the largest error over its tolerance, passed up to 1."""
    return {**outcome(name, worst <= 1), "error_over_tolerance": f"{worst:.3f}"}


def outcome(name: str, passed: bool, note: str = "") -> Row:
    """Return the row of a check without a tolerance."""
    return {
        "check": name,
        "outcome": "passed" if passed else "failed",
        "error_over_tolerance": "",
        "note": note,
    }
