"""Rows of checks that pass or fail."""

from __future__ import annotations

import torch
from torch import Tensor

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


def worst_ratio(found: Tensor, expected: Tensor, tolerance: tuple[float, float]) -> float:
    """Return the largest error over the one that is allowed; infinite for NaN.

    Args:
        expected: in float64, on the device where they are compared.
        tolerance: relative, and absolute as a share of the largest expected value if that
            exceeds 1.
    """
    rtol, atol = tolerance
    error = (found.to(expected.device).double() - expected).abs()
    allowed = atol * max(1.0, float(expected.abs().max())) + rtol * expected.abs()
    return float((error / allowed).nan_to_num(torch.inf).max())
