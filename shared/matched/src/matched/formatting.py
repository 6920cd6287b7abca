"""Text of a table's numbers: means, differences, states, and what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matched.aggregation import CellSummary
from matched.status import State
from matched.table import Metric

MISSING = "—"
NO_GAIN = "no gain"
"""What tuning tables print where no other value is better than the original."""
TUNED = ("lr", "alpha0")
"""Keys of the paper's cells that say with which value a result was reached."""


def metric_name(metric: Metric) -> str:
    """Return label and unit."""
    return f"{metric.label} {metric.unit}".strip()


def format_number(metric: Metric, value: float, reference: float | None = None) -> str:
    """Format ``value`` with the number of decimals that suits the size of ``reference``.

    Without a reference the size is that of ``value``.
    """
    size = abs(value if reference is None else reference)
    decimals = 1 if metric.unit == "%" or size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def format_cell(metric: Metric, cell: CellSummary) -> str:
    """Format mean ± standard deviation over seeds, and how many diverged; else the state."""
    if cell.mean is None:
        return "diverged" if cell.diverged else _state_without_number(cell)
    if cell.found is not None:
        return f"{cell.found:g}"
    text = format_number(metric, cell.mean)
    if cell.std is not None:
        text += f" ± {format_number(metric, cell.std, cell.mean)}"
    if cell.diverged:
        every = cell.diverged == len(cell.states)
        text += " → diverged" if every else f" ({cell.diverged} diverged)"
    return text


def _state_without_number(cell: CellSummary) -> str:
    """Return the state of a cell without a number: of several, the one to look at first."""
    order = (State.DAMAGED, State.FAILED, State.RUNNING, State.QUEUED)
    return next((str(state) for state in order if state in cell.states), MISSING)


def format_printed_cell(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Format a cell as the paper prints it."""
    if cell.get("no_gain"):
        return NO_GAIN
    value = cell.get(metric.key)
    text = "" if value is None else str(value)
    if cell.get("diverged"):
        return f"{text} → diverged" if text else "diverged"
    tuned = [f"{cell[key]:g}" for key in TUNED if text and key in cell and key != metric.key]
    return f"{text} ({', '.join(tuned)})" if tuned else text or MISSING


def format_delta(metric: Metric, base: float | None, delta: float | None) -> str:
    """Format a difference with its sign and the decimals of the baseline's value."""
    if base is None or delta is None:
        return MISSING
    text = format_number(metric, delta, base)
    if float(text) == 0:
        return text.lstrip("-")
    return text if delta < 0 else f"+{text}"
