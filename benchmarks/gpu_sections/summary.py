"""Tables of the GPU benchmark: a short one after each run, and those of docs/GPU.md."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import measuring

from gpu_sections import SECTIONS, progress

PAGE = measuring.RESULTS.parents[1] / "docs/GPU.md"
NOT_MEASURED = "not measured"
Row = dict[str, str]


def text(device: str, folder: Path) -> str:
    """Return what is whole, the most important numbers, and what failed or was left out."""
    environment = progress.environment(device)
    states = [progress.Progress(folder, section.name, environment) for section in SECTIONS]
    lines = ["", "section            parts   failed"]
    for state in states:
        lines.append(f"{state.section:<18} {len(state.whole()):>5}   {len(state.failed()):>6}")
    rows = {state.section: measuring.read(state.file) for state in states}
    lines += [f"{name}: {value}" for name, value in headlines(rows).items()]
    for state in states:
        lines += [f"{state.section}, {part}: {why}" for part, why in state.failed().items()]
        wrong = [row for row in measuring.read(state.file) if row.get("outcome") == "failed"]
        lines += [f"WRONG: {row['part']}, {row['check']} {row['note']}" for row in wrong]
    return "\n".join([*lines, f"CSV files: {folder}"])


def headlines(rows: dict[str, list[Row]]) -> dict[str, str]:
    """Return the numbers that decide, by name."""
    found = {}
    for row in rows["floors"]:
        if row["quantity"].endswith(", time"):
            found[row["quantity"]] = f"{row['value']} {row['unit']}"
    for row in rows["variants"]:
        if row["what"] in ("forward", "backward") and row["rows"] == "4096":
            name = f"{row['what']}, 4096 rows, {row['variant']}"
            found[name] = f"{row['us_median']} µs, {row['ratio_to_floor_median']} of the copy"
    for row in rows["latency"]:
        if row["what"] == "block" and row["mode"] != "eager":
            name = f"LLaMA block, {row['mode']}, {row['pass']}, {row['norm']}"
            found[name] = f"{row['ms_median']} ms, the norms add {row['norms_ms_median']}"
    return found


def write_tables(folder: Path) -> None:
    """Replace the tables of docs/GPU.md, between their marks, by those of the CSV files."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(page, folder), encoding="utf-8")
    print(PAGE)


def with_tables(page: str, folder: Path) -> str:
    """Return the page with the tables of the CSV files in a folder.

    Raises:
        ValueError: the page has no mark for a section, or one of an unknown section.
    """
    for name, table in TABLES.items():
        pattern = re.compile(f"<!-- begin {name} -->.*?<!-- end {name} -->", re.DOTALL)
        rows = [row for row in measuring.read(folder / f"{name}.csv") if row["reduced"] == "no"]
        block = f"<!-- begin {name} -->\n{_by_card(rows, table)}\n<!-- end {name} -->"
        page, count = pattern.subn(lambda _, block=block: block, page)
        if count != 1:
            raise ValueError(f"the page has {count} blocks of {name}; expected one")
    return page


def _by_card(rows: list[Row], table: Callable[[list[Row]], str]) -> str:
    """Return a table for each card, with its day and versions, or "not measured"."""
    if not rows:
        return NOT_MEASURED
    parts = []
    for card in dict.fromkeys(row["hardware"] for row in rows):
        own = [row for row in rows if row["hardware"] == card]
        newest = max(own, key=lambda row: row["time"])
        current = [row for row in own if row["kernels"] == newest["kernels"]]
        versions = f"torch {newest['torch']}, triton {newest['triton']}"
        parts += [f"{card}, {newest['time'][:10]}, {versions}:", table(current)]
    return "\n\n".join(parts)


def _grid(
    rows: list[Row], line: Callable[[Row], str], column: Callable[[Row], str], cell: str
) -> str:
    """Return a Markdown table of one number by two keys."""
    columns = list(dict.fromkeys(map(column, rows)))
    columns.sort(key=_numbers)
    cells = {(line(row), column(row)): row[cell] for row in rows}
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in dict.fromkeys(map(line, rows)):
        values = (cells.get((name, key), NOT_MEASURED) for key in columns)
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _numbers(name: str) -> tuple[float, str]:
    """Sort key: by the product of the numbers in a name, such as a shape's."""
    found = re.findall(r"\d+", name)
    return (math.prod(map(int, found)) if found else 0, name)


def _floors(rows: list[Row]) -> str:
    lines = [f"| {row['quantity']} | {row['value']} {row['unit']} |" for row in rows]
    return "\n".join(["| quantity | value |", "|---|---|", *lines])


def _correctness(rows: list[Row]) -> str:
    parts = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        passed = sum(row["outcome"] == "passed" for row in own)
        errors = [float(row["error_over_tolerance"]) for row in own if row["error_over_tolerance"]]
        worst = f"{max(errors):.2f}" if errors else ""
        parts.append(f"| {part} | {passed} of {len(own)} | {worst} |")
    return "\n".join(
        ["| checks | passed | largest error over tolerance |", "|---|---|---|", *parts]
    )


def _layer_times(rows: list[Row]) -> str:
    parts = []
    for pass_ in ("forward", "backward"):
        for dtype in dict.fromkeys(row["dtype"] for row in rows):
            chosen = [r for r in rows if r["pass"] == pass_ and r["dtype"] == dtype]
            grid = _grid(chosen, lambda row: row["layer"], lambda row: row["shape"], "ms_median")
            parts += [f"Milliseconds, {pass_}, {dtype}:", grid]
    return "\n\n".join(parts)


def _variants(rows: list[Row]) -> str:
    parts = []
    for what in dict.fromkeys(row["what"] for row in rows):
        chosen = [row for row in rows if row["what"] == what]
        grid = _grid(
            chosen, lambda row: row["variant"], lambda row: f"{row['rows']} rows", "us_median"
        )
        parts += [f"Microseconds, {what}:", grid]
    return "\n\n".join(parts)


def _latency(rows: list[Row]) -> str:
    def line(row: Row) -> str:
        return f"{row['norm']}, {row['mode']}"

    def column(row: Row) -> str:
        return f"{row['what']}, {row['pass']}"

    blocks = [row for row in rows if row["what"] == "block"]
    counted = [row for row in blocks if row["launches"]]
    shown = (
        ("Milliseconds of a pass:", rows, "ms_median"),
        ("Milliseconds that the norms add to a block:", blocks, "norms_ms_median"),
        ("Per cent of a block's time that the norms add:", blocks, "norms_percent_median"),
        ("Kernels of a pass:", counted, "launches"),
    )
    parts = []
    for title, chosen, cell in shown:
        parts += [title, _grid(chosen, line, column, cell)] if chosen else []
    return "\n\n".join(parts)


def _step_times(rows: list[Row]) -> str:
    head = "| network | mode | norm | batch | ms | relative to LN | peak memory (GB) |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    keys = ("model", "mode", "norm", "batch", "ms_median", "ratio_median", "peak_gigabytes")
    return "\n".join(
        [*lines, *("| " + " | ".join(row[key] for key in keys) + " |" for row in rows)]
    )


def _tables(rows: list[Row]) -> str:
    lines = [f"| {row['run']} | {row['seconds']} | {row['result']} |" for row in rows]
    return "\n".join(["| run | seconds | result |", "|---|---|---|", *lines])


def _mini(rows: list[Row]) -> str:
    lines = [
        f"| {row['part']} | {row['arm']} | {row['metric']} | {row['value']} | {row['state']} |"
        for row in rows
    ]
    return "\n".join(["| row | arm | metric | value | state |", "|---|---|---|---|---|", *lines])


TABLES = {
    "floors": _floors,
    "correctness": _correctness,
    "layer_times": _layer_times,
    "variants": _variants,
    "latency": _latency,
    "step_times": _step_times,
    "tables": _tables,
    "mini": _mini,
}
assert set(TABLES) == {section.name for section in SECTIONS}
