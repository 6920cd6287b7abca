"""Turns the measurements of layers.py into tables and a plot; what is not in the CSV is not there.

    python benchmarks/layers.py --report

For each machine, and number of threads, a shape's newest run is shown. The plot is written as SVG
text: dots and lines need no library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import measuring

CSV = measuring.RESULTS / "layers.csv"
BASE, COPY = "nn.LayerNorm", "copy (the floor)"
EAGER, KERNEL = "DyT, eager formula", "DyT, kernel"
PASSES = ("forward", "backward", "forward+backward")
BOUNDS = {  # on one thread of a CPU: time over nn.LayerNorm's, at most
    ("forward", "float32"): 0.85,
    ("forward", "bfloat16"): 0.90,
    ("forward+backward", "float32"): 0.95,
    ("forward+backward", "bfloat16"): 0.60,
}
OVER_EAGER = 5  # times faster forward than the formula, at least
NOT_MEASURED = "not measured"
NETWORKS, SWEEP = "shapes of networks", "rows × width"

Row = dict[str, str]
Cell = tuple[str, str]  # dtype and shape


def write() -> None:
    """Make layers.md and layers.svg of the CSV."""
    rows = measuring.read(CSV)
    if not rows:
        raise SystemExit(f"{CSV} has no measurements yet: run `python benchmarks/layers.py` first")
    for suffix, made in ((".md", document(rows)), (".svg", svg(rows))):
        path = CSV.with_suffix(suffix)
        path.write_text(made, encoding="utf-8")
        print(path)


def document(rows: list[Row]) -> str:
    """The Markdown file: every machine's tables, with a GPU's place kept where there is none."""
    parts = [
        "# Times of the layers",
        "Made from [layers.csv](layers.csv) by `python benchmarks/layers.py --report`; how it is"
        " measured stands in [layers.py](../layers.py). Cells are times over nn.LayerNorm's, the"
        " median over rounds (10 to 90 % of them); below 1 is faster. The first row has LayerNorm's"
        " milliseconds. “Kernel” is the C++ kernel on a CPU, the Triton kernel on a GPU.",
        "![The same as a plot](layers.svg)",
        markdown(rows),
    ]
    if all(row["device"] != "cuda" for row in rows):
        parts.append(f"## GPU\n\n{NOT_MEASURED}")
    return "\n\n".join(parts) + "\n"


def markdown(rows: list[Row]) -> str:
    """A section for each machine."""
    return "\n\n".join(section(title, group) for title, group in machines(rows).items())


def machines(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by what they were measured on; of each dtype, shape and pass those of the newest run."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        threads = f", threads: {row['threads']}" if row["device"] == "cpu" else ""
        title = f"{row['hardware']} ({row['instructions']}){threads}"
        groups.setdefault(title, []).append(row)
    return {title: newest(group) for title, group in groups.items()}


def newest(rows: list[Row]) -> list[Row]:
    def key(row: Row) -> tuple[str, ...]:
        return row["pass"], row["dtype"], row["shape"]

    last: dict[tuple[str, ...], str] = {}
    for row in rows:
        last[key(row)] = max(last.get(key(row), ""), row["time"])
    return [row for row in rows if row["time"] == last[key(row)]]


def section(title: str, rows: list[Row]) -> str:
    parts = [f"## {title}", versions(rows)]
    for kind, chosen in kinds(rows).items():
        for which in PASSES:
            if some := [row for row in chosen if row["pass"] == which]:
                parts += [f"### {which}, {kind}", table(some, ratio)]
        if some := [row for row in chosen if row["kept_bytes"]]:
            parts += [f"### Memory, {kind}", MEMORY, table(some, memory)]
    asked = kinds(rows).get(NETWORKS)
    if asked and rows[0]["device"] == "cpu" and str(rows[0]["threads"]) == "1":
        parts += ["### What is asked of the kernel", bounds(asked)]
    return "\n\n".join(parts)


MEMORY = (
    "In multiples of the input's bytes: what is kept between forward and backward pass, parameters"
    " apart / the most that both allocate at a time, results included."
)


def versions(rows: list[Row]) -> str:
    """What ran and when, in a line for each run."""
    lines = []
    for when in sorted({row["time"] for row in rows}):
        run = [row for row in rows if row["time"] == when]
        row, rounds = run[0], sorted({int(row["rounds"]) for row in run})
        counted = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else f"{rounds[0]}"
        names = [f"{n} {row[n]}" for n in ("torch", "python", "triton", "liger") if row[n]]
        load = f"load average as it began {row['load']}"
        lines.append(f"- {when[:16]}: {', '.join(names)}; {counted} rounds; {load}")
    return "\n".join(lines)


def kinds(rows: list[Row]) -> dict[str, list[Row]]:
    """The shapes of networks, (B, T, C), and the sweep's, (rows, C), apart."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        sweep = row["shape"].count("x") == 1
        found.setdefault(SWEEP if sweep else NETWORKS, []).append(row)
    return found


def table(rows: list[Row], show: Callable[[Row], str]) -> str:
    """Layers × (dtype, shape)."""
    cells = {(row["layer"], row["dtype"], row["shape"]): row for row in rows}
    columns = sorted({(r["dtype"], r["shape"]) for r in rows}, key=order)
    names = list(dict.fromkeys(row["layer"] for row in rows))
    lines = [
        "| layer | " + " | ".join(f"{dtype} {shape}" for dtype, shape in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in names:
        found = (cells.get((name, *column)) for column in columns)
        shown = (NOT_MEASURED if row is None else show(row) for row in found)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def order(cell: Cell) -> tuple[bool, int, str]:
    """float32 first, then from small to large."""
    dtype, shape = cell
    return dtype != "float32", math.prod(map(int, shape.split("x"))), dtype


def ratio(row: Row) -> str:
    if row["layer"] == BASE:
        return f"{float(row['ms_median']):.3g} ms"
    low, middle, high = (f"{float(row[f'ratio_{p}']):.2f}" for p in ("p10", "median", "p90"))
    return f"{middle} ({low}–{high})"


def memory(row: Row) -> str:
    size = math.prod(map(int, row["shape"].split("x"))) * (4 if row["dtype"] == "float32" else 2)
    return f"{int(row['kept_bytes']) / size:.2f} / {int(row['peak_bytes']) / size:.2f}"


def bounds(rows: list[Row]) -> str:
    """The DyT kernel beside what is asked of it; what is over a bound is set in bold."""
    cells = {(r["layer"], r["pass"], r["dtype"], r["shape"]): r for r in rows}
    shapes = sorted({r["shape"] for r in rows}, key=lambda shape: order(("", shape)))
    lines = [
        "| pass | dtype | asked | " + " | ".join(shapes) + " |",
        "|---|---|---|" + "---|" * len(shapes),
    ]

    def line(which: str, dtype: str, asked: str, show: Callable[[str], str]) -> None:
        shown = [show(shape) for shape in shapes]
        lines.append(f"| {which} | {dtype} | {asked} | " + " | ".join(shown) + " |")

    for (which, dtype), most in BOUNDS.items():

        def over_norm(
            shape: str, which: str = which, dtype: str = dtype, most: float = most
        ) -> str:
            row = cells.get((KERNEL, which, dtype, shape))
            if row is None:
                return NOT_MEASURED
            value = float(row["ratio_median"])
            return bold(f"{value:.2f}", value > most)

        line(which, dtype, f"≤ {most:.2f} × LayerNorm", over_norm)
    for dtype in ("float32", "bfloat16"):

        def over_eager(shape: str, dtype: str = dtype) -> str:
            pair = [cells.get((name, "forward", dtype, shape)) for name in (EAGER, KERNEL)]
            if None in pair:
                return NOT_MEASURED
            slow, fast = (float(row["ms_median"]) for row in pair)
            return bold(f"{slow / fast:.1f}×", slow / fast < OVER_EAGER)

        line("forward", dtype, f"≥ {OVER_EAGER}× faster than the formula", over_eager)
    return "\n".join(lines)


def bold(text: str, condition: bool) -> str:
    return f"**{text}**" if condition else text


# The plot: for each machine a line of panels per pass and kind of shape, one panel per dtype.
NAMES, PANEL, LEGEND, TOP = 210, 300, 92, 48
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#222222")


def svg(rows: list[Row]) -> str:
    """Ratios to nn.LayerNorm on a logarithmic axis: the median's dot, a line from 10 to 90 %."""
    parts: list[str] = []
    y, width = 24, NAMES
    parts.append(write_text(10, y, "Time over nn.LayerNorm's: left of the black line is faster"))
    for title, group in machines(rows).items():
        y += 24
        parts.append(write_text(10, y, title, 'font-weight="bold" font-size="14"'))
        for chosen in kinds(group).values():
            for which in PASSES:
                some = [r for r in chosen if r["pass"] == which and r["layer"] != BASE]
                if some:
                    height, right = panels(parts, some, which, y + 8)
                    y, width = y + 8 + height, max(width, right)
    if all(row["device"] != "cuda" for row in rows):
        y += 24
        parts.append(write_text(10, y, f"GPU: {NOT_MEASURED}", 'font-weight="bold"'))
    size = f'width="{width + 20}" height="{y + 20}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'{head} font-size="11">', background, *parts, "</svg>", ""])


def panels(parts: list[str], rows: list[Row], which: str, top: int) -> tuple[int, int]:
    """One pass: its layers below each other, its dtypes beside each other."""
    names = list(dict.fromkeys(row["layer"] for row in rows))
    shapes = sorted({row["shape"] for row in rows}, key=lambda shape: order(("", shape)))
    dtypes = sorted({row["dtype"] for row in rows}, key=lambda dtype: dtype != "float32")
    height = max(18, 5 * len(shapes))  # of a layer
    bottom = top + TOP + height * len(names)
    for index, name in enumerate(names):
        place = top + TOP + height * (index + 0.5) + 3
        parts.append(write_text(NAMES - 8, place, name, 'text-anchor="end"'))
    for index, shape in enumerate(shapes):
        x = NAMES + LEGEND * index
        parts.append(f'<circle cx="{x}" cy="{top + 26}" r="4" fill="{color(index)}"/>')
        parts.append(write_text(x + 7, top + 30, shape))
    values = [float(row[f"ratio_{p}"]) for row in rows for p in ("p10", "p90")]
    low, high = math.log2(min(0.5, *values)), math.log2(max(2.0, *values))
    for index, dtype in enumerate(dtypes):
        left = NAMES + index * (PANEL + 20)

        def at(value: float, left: int = left) -> float:
            return left + (math.log2(value) - low) / (high - low) * PANEL

        parts.append(write_text(left, top + 14, f"{which}, {dtype}", 'font-weight="bold"'))
        for power in range(math.ceil(low), math.floor(high) + 1):
            stroke = "#000" if power == 0 else "#ddd"
            x = at(2.0**power)
            parts.append(line(x, top + TOP - 6, x, bottom, stroke))
            parts.append(write_text(x, bottom + 12, f"{2.0**power:g}", 'text-anchor="middle"'))
        for row in (r for r in rows if r["dtype"] == dtype):
            series = shapes.index(row["shape"])
            offset = (series + 0.5) / len(shapes) * (height - 4)
            y = top + TOP + height * names.index(row["layer"]) + offset
            p10, median, p90 = (at(float(row[f"ratio_{p}"])) for p in ("p10", "median", "p90"))
            parts.append(line(p10, y, p90, y, color(series)))
            parts.append(f'<circle cx="{median:.1f}" cy="{y:.1f}" r="2.6" fill="{color(series)}"/>')
    return bottom + 20 - top, NAMES + max(len(dtypes) * (PANEL + 20), LEGEND * len(shapes))


def color(series: int) -> str:
    return COLORS[series % len(COLORS)]


def line(x1: float, y1: float, x2: float, y2: float, stroke: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{stroke}"/>'


def write_text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
