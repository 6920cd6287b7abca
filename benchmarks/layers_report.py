"""Report of layers.py: tables and a plot of the measurements in the CSV, and of nothing else.

    python benchmarks/layers.py --report

For each machine and number of threads, the newest run of each shape is shown. The plot is written
as SVG text, since dots and lines need no library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import measuring

CSV = measuring.RESULTS / "layers.csv"
BASE, COPY = "nn.LayerNorm", "copy (lower bound)"
EAGER, KERNEL = "DyT, eager formula", "DyT, kernel"
PASSES = ("forward", "backward", "forward+backward")
TARGETS = {  # on one CPU thread: the largest accepted time relative to nn.LayerNorm
    ("forward", "float32"): 0.85,
    ("forward", "bfloat16"): 0.90,
    ("forward+backward", "float32"): 0.95,
    ("forward+backward", "bfloat16"): 0.60,
}
SPEEDUP_TARGET = 5  # the smallest accepted speedup over the formula, forward
NOT_MEASURED = "not measured"
NETWORKS, SWEEP = "shapes of networks", "rows × width"

Row = dict[str, str]
Cell = tuple[str, str]  # dtype and shape


def write() -> None:
    """Write layers.md and layers.svg from the CSV."""
    rows = measuring.read(CSV)
    if not rows:
        raise SystemExit(f"{CSV} has no measurements yet. Run `python benchmarks/layers.py` first.")
    for suffix, content in ((".md", document(rows)), (".svg", svg(rows))):
        path = CSV.with_suffix(suffix)
        path.write_text(content, encoding="utf-8")
        print(path)


def document(rows: list[Row]) -> str:
    """Return the Markdown file: the tables of every machine, and a note if no GPU was measured."""
    parts = [
        "# Times of the layers",
        "Generated from [layers.csv](layers.csv) by `python benchmarks/layers.py --report`;"
        " [layers.py](../layers.py) describes the method. Cells are times relative to nn.LayerNorm:"
        " the median over rounds (10th to 90th percentile); below 1 is faster. The first row has"
        " LayerNorm's milliseconds. “Kernel” is the C++ kernel on a CPU and the Triton kernel on a"
        " GPU.",
        "![Plot of the same numbers](layers.svg)",
        markdown(rows),
    ]
    if all(row["device"] != "cuda" for row in rows):
        parts.append(f"## GPU\n\n{NOT_MEASURED}")
    return "\n\n".join(parts) + "\n"


def markdown(rows: list[Row], with_targets: bool = True) -> str:
    """Return a section for each machine."""
    return "\n\n".join(
        section(title, group, with_targets) for title, group in machines(rows).items()
    )


def machines(rows: list[Row]) -> dict[str, list[Row]]:
    """Group rows by machine; only those of the newest run of each dtype, shape and pass."""
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


def section(title: str, rows: list[Row], with_targets: bool) -> str:
    """Return one machine's section: times, memory and, if requested, the targets on one thread."""
    parts = [f"## {title}", versions(rows)]
    for kind, rows_of_kind in by_kind_of_shape(rows).items():
        for pass_ in PASSES:
            if selected := [row for row in rows_of_kind if row["pass"] == pass_]:
                parts += [f"### {pass_}, {kind}", table(selected, format_ratio)]
        if selected := [row for row in rows_of_kind if row["kept_bytes"]]:
            parts += [f"### Memory, {kind}", MEMORY_LEGEND, table(selected, format_memory)]
    network_rows = by_kind_of_shape(rows).get(NETWORKS)
    measured_for_targets = rows[0]["device"] == "cpu" and str(rows[0]["threads"]) == "1"
    if with_targets and network_rows and measured_for_targets:
        parts += ["### Targets of the kernel", targets(network_rows)]
    return "\n\n".join(parts)


MEMORY_LEGEND = (
    "In multiples of the input's bytes: saved between forward and backward pass, without parameters"
    " / peak allocation of both passes, including results."
)


def versions(rows: list[Row]) -> str:
    """Return time, versions, rounds and load of each run, one line per run."""
    lines = []
    for when in sorted({row["time"] for row in rows}):
        run = [row for row in rows if row["time"] == when]
        row, rounds = run[0], sorted({int(row["rounds"]) for row in run})
        counted = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else f"{rounds[0]}"
        names = [f"{n} {row[n]}" for n in ("torch", "python", "triton", "liger") if row[n]]
        load = f"load average at the start {row['load']}"
        lines.append(f"- {when[:16]}: {', '.join(names)}; {counted} rounds; {load}")
    return "\n".join(lines)


def by_kind_of_shape(rows: list[Row]) -> dict[str, list[Row]]:
    """Separate the shapes of networks, (B, T, C), from those of the sweep, (rows, C)."""
    result: dict[str, list[Row]] = {}
    for row in rows:
        sweep = row["shape"].count("x") == 1
        result.setdefault(SWEEP if sweep else NETWORKS, []).append(row)
    return result


def table(rows: list[Row], show: Callable[[Row], str]) -> str:
    """Return a Markdown table of layers × (dtype, shape)."""
    cells = {(row["layer"], row["dtype"], row["shape"]): row for row in rows}
    columns = sorted({(r["dtype"], r["shape"]) for r in rows}, key=column_order)
    names = list(dict.fromkeys(row["layer"] for row in rows))
    lines = [
        "| layer | " + " | ".join(f"{dtype} {shape}" for dtype, shape in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in names:
        row_cells = (cells.get((name, *column)) for column in columns)
        texts = (NOT_MEASURED if row is None else show(row) for row in row_cells)
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def column_order(cell: Cell) -> tuple[bool, int, str]:
    """Sort key: float32 first, then by increasing size."""
    dtype, shape = cell
    return dtype != "float32", math.prod(map(int, shape.split("x"))), dtype


def format_ratio(row: Row) -> str:
    if row["layer"] == BASE:
        return f"{float(row['ms_median']):.3g} ms"
    low, middle, high = (f"{float(row[f'ratio_{p}']):.2f}" for p in ("p10", "median", "p90"))
    return f"{middle} ({low}–{high})"


def format_memory(row: Row) -> str:
    size = math.prod(map(int, row["shape"].split("x"))) * (4 if row["dtype"] == "float32" else 2)
    return f"{int(row['kept_bytes']) / size:.2f} / {int(row['peak_bytes']) / size:.2f}"


def targets(rows: list[Row]) -> str:
    """Return a table of the DyT kernel's times and targets; missed targets are in bold."""
    cells = {(r["layer"], r["pass"], r["dtype"], r["shape"]): r for r in rows}
    shapes = sorted({r["shape"] for r in rows}, key=lambda shape: column_order(("", shape)))
    lines = [
        "| pass | dtype | target | " + " | ".join(shapes) + " |",
        "|---|---|---|" + "---|" * len(shapes),
    ]

    def add_line(pass_: str, dtype: str, target: str, show: Callable[[str], str]) -> None:
        texts = [show(shape) for shape in shapes]
        lines.append(f"| {pass_} | {dtype} | {target} | " + " | ".join(texts) + " |")

    for (pass_, dtype), largest in TARGETS.items():

        def relative_to_norm(
            shape: str, pass_: str = pass_, dtype: str = dtype, largest: float = largest
        ) -> str:
            row = cells.get((KERNEL, pass_, dtype, shape))
            if row is None:
                return NOT_MEASURED
            value = float(row["ratio_median"])
            return bold_if(value > largest, f"{value:.2f}")

        add_line(pass_, dtype, f"≤ {largest:.2f} × LayerNorm", relative_to_norm)
    for dtype in ("float32", "bfloat16"):

        def speedup_over_eager(shape: str, dtype: str = dtype) -> str:
            pair = [cells.get((name, "forward", dtype, shape)) for name in (EAGER, KERNEL)]
            if None in pair:
                return NOT_MEASURED
            eager, kernel = (float(row["ms_median"]) for row in pair)
            return bold_if(eager / kernel < SPEEDUP_TARGET, f"{eager / kernel:.1f}×")

        target = f"≥ {SPEEDUP_TARGET}× faster than the formula"
        add_line("forward", dtype, target, speedup_over_eager)
    return "\n".join(lines)


def bold_if(condition: bool, text: str) -> str:
    return f"**{text}**" if condition else text


# The plot has a row of panels for each machine, pass and kind of shape, with one panel per dtype.
NAMES_WIDTH, PANEL_WIDTH, LEGEND_WIDTH, PANEL_TOP = 210, 300, 92, 48  # pixels
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#222222")


def svg(rows: list[Row]) -> str:
    """Return the plot: ratios to nn.LayerNorm on a logarithmic axis.

    A dot marks the median, and a line the range from the 10th to the 90th percentile.
    """
    parts: list[str] = []
    y, width = 24, NAMES_WIDTH
    heading = "Time relative to nn.LayerNorm: left of the black line is faster"
    parts.append(svg_text(10, y, heading))
    for title, group in machines(rows).items():
        y += 24
        parts.append(svg_text(10, y, title, 'font-weight="bold" font-size="14"'))
        for rows_of_kind in by_kind_of_shape(group).values():
            for pass_ in PASSES:
                selected = [r for r in rows_of_kind if r["pass"] == pass_ and r["layer"] != BASE]
                if selected:
                    height, right = add_panels(parts, selected, pass_, y + 8)
                    y, width = y + 8 + height, max(width, right)
    if all(row["device"] != "cuda" for row in rows):
        y += 24
        parts.append(svg_text(10, y, f"GPU: {NOT_MEASURED}", 'font-weight="bold"'))
    size = f'width="{width + 20}" height="{y + 20}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'{head} font-size="11">', background, *parts, "</svg>", ""])


def add_panels(parts: list[str], rows: list[Row], pass_: str, top: int) -> tuple[int, int]:
    """Draw one pass, with a line per layer and a panel per dtype; return height and right edge."""
    names = list(dict.fromkeys(row["layer"] for row in rows))
    shapes = sorted({row["shape"] for row in rows}, key=lambda shape: column_order(("", shape)))
    dtypes = sorted({row["dtype"] for row in rows}, key=lambda dtype: dtype != "float32")
    height = max(18, 5 * len(shapes))  # of a line
    bottom = top + PANEL_TOP + height * len(names)
    for index, name in enumerate(names):
        y = top + PANEL_TOP + height * (index + 0.5) + 3
        parts.append(svg_text(NAMES_WIDTH - 8, y, name, 'text-anchor="end"'))
    for index, shape in enumerate(shapes):
        x = NAMES_WIDTH + LEGEND_WIDTH * index
        parts.append(f'<circle cx="{x}" cy="{top + 26}" r="4" fill="{color(index)}"/>')
        parts.append(svg_text(x + 7, top + 30, shape))
    values = [float(row[f"ratio_{p}"]) for row in rows for p in ("p10", "p90")]
    low, high = math.log2(min(0.5, *values)), math.log2(max(2.0, *values))
    for index, dtype in enumerate(dtypes):
        left = NAMES_WIDTH + index * (PANEL_WIDTH + 20)

        def x_of(value: float, left: int = left) -> float:
            return left + (math.log2(value) - low) / (high - low) * PANEL_WIDTH

        parts.append(svg_text(left, top + 14, f"{pass_}, {dtype}", 'font-weight="bold"'))
        for power in range(math.ceil(low), math.floor(high) + 1):
            stroke = "#000" if power == 0 else "#ddd"
            x = x_of(2.0**power)
            parts.append(svg_line(x, top + PANEL_TOP - 6, x, bottom, stroke))
            parts.append(svg_text(x, bottom + 12, f"{2.0**power:g}", 'text-anchor="middle"'))
        for row in (r for r in rows if r["dtype"] == dtype):
            series = shapes.index(row["shape"])
            offset = (series + 0.5) / len(shapes) * (height - 4)
            y = top + PANEL_TOP + height * names.index(row["layer"]) + offset
            p10, median, p90 = (x_of(float(row[f"ratio_{p}"])) for p in ("p10", "median", "p90"))
            parts.append(svg_line(p10, y, p90, y, color(series)))
            parts.append(f'<circle cx="{median:.1f}" cy="{y:.1f}" r="2.6" fill="{color(series)}"/>')
    return bottom + 20 - top, NAMES_WIDTH + max(
        len(dtypes) * (PANEL_WIDTH + 20), LEGEND_WIDTH * len(shapes)
    )


def color(series: int) -> str:
    return COLORS[series % len(COLORS)]


def svg_line(x1: float, y1: float, x2: float, y2: float, stroke: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{stroke}"/>'


def svg_text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
