"""Figures of norm layers: outputs against inputs, by token and by channel, and α against 1/std.

The data are the files norm_layers.npz that analysis runs write (``dyt.norm_analysis``).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from matched.report.figures.canvas import COLORS, MARKERS, Canvas, PanelRuns

FILE = "norm_layers.npz"
MAX_POINTS = 3000
"""Points of a panel; more would only cover each other."""
PICTURE_LAYERS = 4
"""Layers in the picture of an analysis, from the first to the last."""
HIGHLIGHTED = 6
"""Tokens or channels with colours; the others are grey."""
CURVED = 0.01
"""Part of the outputs' variance that a straight line leaves, at least, in an S-shaped layer."""
REMAINING = 0.5
"""Part of the line's squared error that the curve leaves, at most, in an S-shaped layer."""
KINDS = {"attention": ("norm1", "self_attn", "attn"), "FFN": ("norm2", "mlp", "final_layer_norm")}
"""Kind of layer → parts of the paths that name it, in timm, fairseq and DiT; others are "other"."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One norm layer: inputs and outputs (N, C) before the affine part, one row per token.

    Attributes:
        fit: the fields of ``dyt.norm_analysis.CurveFit`` by name.
    """

    path: str
    x: Any
    y: Any
    alpha: float
    input_std: float
    fit: Mapping[str, float]


def read_layers(path: Path) -> list[Layer]:
    """Return the layers that an analysis run has recorded, in the order in which they are called.

    Raises:
        ValueError: if the file is missing or damaged, or the training diverged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [
                Layer(
                    path=str(name),
                    x=arrays[f"x{index}"].astype(np.float32),
                    y=arrays[f"y{index}"].astype(np.float32),
                    alpha=float(arrays["alpha"][index]),
                    input_std=float(arrays["input_std"][index]),
                    fit=dict(
                        zip(arrays["fit_columns"].tolist(), arrays["fit"][index], strict=True)
                    ),
                )
                for index, name in enumerate(arrays["path"])
            ]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
        raise ValueError(
            f"{path} {reason}; `matched retry` computes the run again if it is deleted"
        ) from None


def _layers_of(panel: PanelRuns) -> list[Layer]:
    (planned,) = panel.runs.values()
    return read_layers(planned.directory / FILE)


def layer_kind(path: str) -> str:
    """Return "attention", "FFN" or "other" by the path of a norm layer."""
    parts = path.split(".")
    return next(
        (kind for kind, words in KINDS.items() if any(w in part for w in words for part in parts)),
        "other",
    )


def is_s_shaped(layer: Layer) -> bool:
    """True if a straight line misses the points, and a best s·tanh(αx) + c fits them much better.

    The line leaves at least ``CURVED`` of the outputs' variance, and the curve less than
    ``REMAINING`` of that.
    """
    line, curve = layer.fit["line_error"] ** 2, layer.fit["tanh_error"] ** 2
    return line >= CURVED and curve < REMAINING * line


def describe_shapes(panels: Sequence[PanelRuns], scale: str) -> str:
    """Return a sentence on the networks whose deep layers are S-shaped, and one on the criterion.

    Deep and early layers are the last and the first third, as in
    ``dyt.norm_analysis.shape_metrics``.

    Raises:
        ValueError: as ``read_layers``.
    """
    shaped: list[str] = []
    others: list[str] = []
    for panel in panels:
        layers = _layers_of(panel)
        third = max(1, len(layers) // 3)
        early, deep = (sum(map(is_s_shaped, part)) for part in (layers[:third], layers[-third:]))
        of = f"of {third} layers" if third > 1 else "of 1 layer"
        text = f"{panel.title} (last third: {deep} {of}, first third: {early})"
        (shaped if deep else others).append(text)
    if shaped:
        finding = f"At {scale} scale, deep layers are S-shaped in {', '.join(shaped)}"
        finding += f", but not in {', '.join(others)}." if others else "."
    else:
        what = "" if scale == "paper" else "toy networks do not show it: "
        finding = f"At {scale} scale, no deep layer is S-shaped; {what}{', '.join(others)}."
    curved, remaining = 100 * CURVED, 100 * REMAINING
    return (
        f"{finding} A layer counts as S-shaped if a straight line leaves at least {curved:.0f} % "
        f"of the variance of its outputs, and s·tanh(αx) + c less than {remaining:.0f} % of that."
    )


def _at(layers: Sequence[Layer], depth: float) -> tuple[int, Layer]:
    index = round(depth * (len(layers) - 1))
    return index, layers[index]


def draw_shapes(canvas: Canvas, panels: Sequence[PanelRuns], count: int) -> None:
    """Draw outputs against inputs of ``count`` layers of each network, one network per row."""
    axes = canvas.axes(len(panels), count)
    canvas.columns = ("network", "layer", "path", "input", "output")
    for row, panel in zip(axes, panels, strict=True):
        _draw_row(canvas, row, f"{panel.title}, ", _layers_of(panel))
    for axis in axes[-1]:
        axis.set_xlabel("input")


def draw_analysis(canvas: Canvas, path: Path) -> None:
    """Draw outputs against inputs of ``PICTURE_LAYERS`` layers of one analysis.

    Raises:
        ValueError: as ``read_layers``.
    """
    (row,) = canvas.axes(1, PICTURE_LAYERS)
    _draw_row(canvas, row, "", read_layers(path))
    for axis in row:
        axis.set_xlabel("input")


def _draw_row(canvas: Canvas, axes: Sequence[Any], title: str, layers: Sequence[Layer]) -> None:
    """Draw layers from the first to the last, one per axis; ``title`` begins the axes' titles."""
    for position, axis in enumerate(axes):
        index, layer = _at(layers, position / max(1, len(axes) - 1))
        x, y = _some_points(layer)
        axis.plot(x, y, ".", markersize=1.5, color=COLORS[0], alpha=0.4, rasterized=True)
        line = np.linspace(x.min(), x.max(), 200)
        fit = layer.fit
        fitted = fit["scale"] * np.tanh(fit["alpha"] * line) + fit["tanh_offset"]
        axis.plot(line, fitted, "--", color=COLORS[1], linewidth=1)
        axis.set_title(f"{title}norm layer {index + 1} of {len(layers)}")
        canvas.add_rows(
            (title.rstrip(", "), index + 1, layer.path, f"{a:.4g}", f"{b:.4g}")
            for a, b in zip(x, y, strict=True)
        )
    axes[0].set_ylabel("output")


def _some_points(layer: Layer) -> tuple[Any, Any]:
    """Return at most ``MAX_POINTS`` points, those of the most extreme inputs among them."""
    x, y = layer.x.ravel(), layer.y.ravel()
    if len(x) <= MAX_POINTS:
        return x, y
    order = np.argsort(np.abs(x))
    extreme = order[-MAX_POINTS // 10 :]
    rest = order[: -MAX_POINTS // 10]
    chosen = rest[np.linspace(0, len(rest) - 1, MAX_POINTS - len(extreme)).astype(int)]
    points = np.concatenate([chosen, extreme])
    return x[points], y[points]


def draw_tokens_and_channels(canvas: Canvas, panel: PanelRuns, depths: Sequence[float]) -> None:
    """Draw layers twice: points of some tokens in colours with their lines, then of channels."""
    axes = canvas.axes(1, 2 * len(depths))[0]
    canvas.columns = ("layer", "path", "token", "channel", "input", "output")
    layers = _layers_of(panel)
    for position, depth in enumerate(depths):
        index, layer = _at(layers, depth)
        title = f"{panel.title}, norm layer {index + 1}"
        tokens, channels = axes[position], axes[len(depths) + position]
        _grey(tokens, layer)
        _grey(channels, layer)
        for color, token in zip(COLORS, _spread_tokens(layer), strict=False):
            x, y = layer.x[token], layer.y[token]
            tokens.plot(x, y, ".", markersize=3, color=color, rasterized=True)
            ends = np.array([x.min(), x.max()])
            tokens.plot(ends, np.poly1d(np.polyfit(x, y, 1))(ends), ":", color=color, linewidth=1)
        for color, channel in zip(COLORS, _extreme_channels(layer), strict=False):
            x, y = layer.x[:, channel], layer.y[:, channel]
            channels.plot(x, y, ".", markersize=3, color=color, rasterized=True)
        tokens.set_title(f"{title}, by token")
        channels.set_title(f"{title}, by channel")
        canvas.add_rows(
            (index + 1, layer.path, t, c, f"{layer.x[t, c]:.4g}", f"{layer.y[t, c]:.4g}")
            for t in range(layer.x.shape[0])
            for c in range(layer.x.shape[1])
        )
    for axis in axes:
        axis.set_xlabel("input")
    axes[0].set_ylabel("output")


def _grey(axis: Any, layer: Layer) -> None:
    x, y = _some_points(layer)
    axis.plot(x, y, ".", markersize=1, color="#bbbbbb", rasterized=True)


def _spread_tokens(layer: Layer) -> Any:
    """Return tokens from the smallest to the largest standard deviation of their inputs."""
    order = np.argsort(layer.x.std(axis=1))
    return order[np.linspace(0, len(order) - 1, HIGHLIGHTED).astype(int)]


def _extreme_channels(layer: Layer) -> Any:
    """Return the channels with the most extreme inputs first, then typical ones."""
    order = np.argsort(-np.abs(layer.x).max(axis=0))
    half = HIGHLIGHTED // 2
    return np.concatenate([order[:half], order[len(order) // 2 :][: HIGHLIGHTED - half]])


def draw_alpha_against_std(canvas: Canvas, panels: Sequence[PanelRuns]) -> None:
    """Draw α against 1/std of the inputs, a point for each DyT layer, by kind of layer.

    Raises:
        ValueError: if a network has no layers with α.
    """
    axes = canvas.axes(1, len(panels), width=2.8, height=2.4)[0]
    canvas.columns = ("network", "path", "kind", "alpha", "inverse_std")
    for axis, panel in zip(axes, panels, strict=True):
        layers = [layer for layer in _layers_of(panel) if np.isfinite(layer.alpha)]
        if not layers:
            (planned,) = panel.runs.values()
            raise ValueError(f"{planned.title} has no DyT layers, and so no α to draw")
        for index, kind in enumerate((*KINDS, "other")):
            chosen = [layer for layer in layers if layer_kind(layer.path) == kind]
            if not chosen:
                continue
            axis.plot(
                [1 / layer.input_std for layer in chosen],
                [layer.alpha for layer in chosen],
                linestyle="none",
                marker=MARKERS[index],
                markersize=4,
                color=COLORS[index],
                label=kind,
            )
            canvas.add_rows(
                (panel.title, one.path, kind, one.alpha, 1 / one.input_std) for one in chosen
            )
        axis.set_title(panel.title)
        axis.set_xlabel("1/std of the input")
        axis.set_ylabel("α")
        axis.legend()
