"""Panels of norm layers: points, fitted curves, tokens and channels, and S-shapes in words."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from matched.report.figures import norm_layers
from matched.report.figures.canvas import COLORS, Canvas, PanelRuns

from .test_figure_panels import described, panel, size

BLUE, ORANGE, GREEN = COLORS[:3]
FIT = {"scale": 2.0, "alpha": 0.5, "tanh_offset": 0.25, "line_error": 0.3, "tanh_error": 0.1}


def write_layers(folder, alphas, paths=("norm1", "norm2", "norm")):
    """Write what an analysis run writes: layers of 3 tokens and 8 channels."""
    folder.mkdir(parents=True)
    arrays = {
        "path": np.array(paths),
        "alpha": np.array(alphas),
        "input_std": np.array([1.0, 2.0, 4.0]),
        "fit": np.array([list(FIT.values())] * 3),
        "fit_columns": np.array(list(FIT)),
    }
    for index in range(3):
        # Token t has the values -t … t; channel 7 has the largest.
        x = np.outer([1.0, 2.0, 3.0], np.linspace(-0.5, 1.0, 8)) + index
        arrays |= {f"x{index}": x, f"y{index}": 10 * x + 1}
    np.savez(folder / norm_layers.FILE, **arrays)
    return arrays


def rasterized(canvas):
    return [line.get_rasterized() or None for axis in canvas._figure.axes for line in axis.lines]


@pytest.fixture
def layers(tmp_path):
    arrays = write_layers(tmp_path / "run", (0.5, np.nan, 0.25))
    planned = SimpleNamespace(directory=tmp_path / "run", title="small · LN · seed 0")
    return PanelRuns(title="ViT", runs={"LN": planned}), arrays


def flipped(content):
    """Content with bytes of compressed data changed."""
    place = len(content) // 3
    return (
        content[:place]
        + bytes(b ^ 0xFF for b in content[place : place + 40])
        + content[place + 40 :]
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04 cut"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(flipped(path.read_bytes())),
        lambda path: np.savez(path, path=np.array(["norm1"])),
        lambda path: np.savez(path, path=np.array([object()])),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["empty", "no archive", "cut", "flipped", "keys missing", "objects", "folder"],
)
def test_damaged_layers_are_refused_with_what_to_do(layers, tmp_path, damage):
    _, arrays = layers
    path = tmp_path / "run" / norm_layers.FILE
    np.savez_compressed(path, **arrays)
    assert [layer.path for layer in norm_layers.read_layers(path)] == ["norm1", "norm2", "norm"]
    damage(path)
    with pytest.raises(ValueError) as error:
        norm_layers.read_layers(path)
    assert str(error.value).startswith(f"{path} is damaged (")
    assert str(error.value).endswith("); `matched retry` computes the run again if it is deleted")
    with pytest.raises(ValueError, match=r"none\.npz is missing; `matched retry` computes the run"):
        norm_layers.read_layers(tmp_path / "none.npz")


def test_shapes_are_drawn_from_the_first_to_the_last_layer(layers):
    shown, arrays = layers
    canvas = Canvas("shapes")
    norm_layers.draw_shapes(canvas, [shown], 2)
    first, last = described(canvas)
    for found, index, y_label in ((first, 0, "output"), (last, 2, "")):
        assert found["title"] == f"ViT, norm layer {index + 1} of 3"
        assert (found["x"], found["y"]) == ("input", y_label)
        points, fitted = found["lines"]
        x = arrays[f"x{index}"].ravel()
        assert points[:3] == (BLUE, "None", ".") and points[3] == pytest.approx(list(x))
        assert points[4] == pytest.approx(list(10 * x + 1), rel=1e-5)
        assert fitted[:3] == (ORANGE, "--", "None")
        assert (fitted[3][0], fitted[3][-1]) == pytest.approx((x.min(), x.max()))
        # 2 tanh(x/2) + 1/4
        assert fitted[4][-1] == pytest.approx(2 * math.tanh(x.max() / 2) + 0.25, rel=1e-5)
    assert size(canvas) == (4.4, 2.0) and rasterized(canvas) == [True, None] * 2
    assert canvas.columns == ("network", "layer", "path", "input", "output")
    assert len(canvas.rows) == 48
    assert canvas.rows[0] == ("ViT", 1, "norm1", "-0.5", "-4")
    assert canvas.rows[-1] == ("ViT", 3, "norm", "5", "51")


def test_analysis_picture_has_four_layers_of_its_own_run(layers, tmp_path):
    canvas = Canvas("picture")
    norm_layers.draw_analysis(canvas, tmp_path / "run" / norm_layers.FILE)
    assert [(shown["title"], shown["x"], shown["y"]) for shown in described(canvas)] == [
        ("norm layer 1 of 3", "input", "output"),
        ("norm layer 2 of 3", "input", ""),
        ("norm layer 2 of 3", "input", ""),
        ("norm layer 3 of 3", "input", ""),
    ]


def test_tokens_and_channels_have_half_of_the_panels_each(layers):
    shown, _ = layers
    canvas = Canvas("tokens")
    norm_layers.draw_tokens_and_channels(canvas, shown, (0.0, 1.0))
    panels = described(canvas)
    assert [(found["title"], found["x"], found["y"]) for found in panels] == [
        ("ViT, norm layer 1, by token", "input", "output"),
        ("ViT, norm layer 3, by token", "input", ""),
        ("ViT, norm layer 1, by channel", "input", ""),
        ("ViT, norm layer 3, by channel", "input", ""),
    ]
    grey, *tokens = panels[0]["lines"]
    assert grey[0] == "#bbbbbb" and len(grey[3]) == 24
    # Points and line of the tokens of six steps from the smallest to the largest deviation.
    assert [line[0] for line in tokens] == [color for color in COLORS[:6] for _ in (0, 1)]
    assert [line[1] for line in tokens] == ["None", ":"] * 6
    assert [line[3][-1] for line in tokens[::2]] == [1.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert tokens[1][3] == [-0.5, 1.0] and tokens[1][4] == pytest.approx([-4.0, 11.0])
    _, *channels = panels[2]["lines"]
    # The most extreme three, 7 to 5, then those from the middle on: of |x|, 4, 0 and 3.
    inputs = np.linspace(-0.5, 1.0, 8)
    chosen = [line[3][0] for line in channels]
    assert chosen[:3] == pytest.approx([inputs[7], inputs[6], inputs[5]])
    assert len(chosen) == 6 and [line[0] for line in channels] == list(COLORS[:6])
    # Points are pixels in the SVG, which would be large otherwise; lines are not.
    assert rasterized(canvas)[:13] == [True, *[True, None] * 6]
    assert rasterized(canvas)[-7:] == [True] * 7
    assert canvas.columns == ("layer", "path", "token", "channel", "input", "output")
    assert canvas.rows[9] == (1, "norm1", 1, 1, "-0.5714", "-4.714")
    assert len(canvas.rows) == 48 and canvas.rows[24][:4] == (3, "norm", 0, 0)


def test_alpha_against_std_leaves_out_layers_without_alpha(layers, tmp_path):
    shown, _ = layers
    canvas = Canvas("std")
    norm_layers.draw_alpha_against_std(canvas, [shown])
    assert described(canvas) == [
        panel(
            *("ViT", "1/std of the input", "α", ["attention", "other"]),
            [(BLUE, "None", "o", [1.0], [0.5]), (GREEN, "None", "s", [0.25], [0.25])],
        )
    ]
    assert size(canvas) == (2.8, 2.4)
    assert canvas.columns == ("network", "path", "kind", "alpha", "inverse_std")
    assert canvas.rows == [
        ("ViT", "norm1", "attention", 0.5, 1.0),
        ("ViT", "norm", "other", 0.25, 0.25),
    ]


def test_points_of_a_large_layer_are_a_tenth_extreme_ones():
    x = np.arange(-10_000, 0, dtype=np.float32)
    layer = norm_layers.Layer(
        path="a", x=x.reshape(100, 100), y=-x.reshape(100, 100), alpha=1.0, input_std=1.0, fit={}
    )
    points, outputs = norm_layers._some_points(layer)
    assert len(points) == 3000 and np.array_equal(points, -outputs)
    assert np.array_equal(np.sort(points)[:300], x[:300]), "the 300 most extreme inputs"
    assert points.max() == -1 and len(np.unique(points)) == 3000


def fitted(line, curve):
    fit = {"line_error": line, "tanh_error": curve}
    return norm_layers.Layer(path="a", x=None, y=None, alpha=1.0, input_std=1.0, fit=fit)


BENT, STRAIGHT = fitted(0.3, 0.1), fitted(0.05, 0.01)
CRITERION = (
    " A layer counts as S-shaped if a straight line leaves at least 1 % of the variance of its "
    "outputs, and s·tanh(αx) + c less than 50 % of that."
)


@pytest.mark.parametrize(
    ("networks", "scale", "finding"),
    [
        (
            {"A": [STRAIGHT] * 4 + [BENT] * 3, "B": [STRAIGHT]},
            "mini",
            "At mini scale, deep layers are S-shaped in A (last third: 2 of 2 layers, first third: "
            "0), but not in B (last third: 0 of 1 layer, first third: 0).",
        ),
        (
            {"A": [BENT]},
            "paper",
            "At paper scale, deep layers are S-shaped in A (last third: 1 of 1 layer, first third: "
            "1).",
        ),
        (
            {"A": [BENT, BENT, STRAIGHT]},
            "smoke",
            "At smoke scale, no deep layer is S-shaped; toy networks do not show it: A (last third:"
            " 0 of 1 layer, first third: 1).",
        ),
        (
            {"A": [STRAIGHT], "B": [STRAIGHT] * 2},
            "paper",
            "At paper scale, no deep layer is S-shaped; A (last third: 0 of 1 layer, first third: "
            "0), B (last third: 0 of 1 layer, first third: 0).",
        ),
    ],
)
def test_describe_shapes_counts_the_last_and_the_first_third(monkeypatch, networks, scale, finding):
    monkeypatch.setattr(norm_layers, "_layers_of", lambda panel: networks[panel.title])
    panels = [PanelRuns(title=title, runs={}) for title in networks]
    assert norm_layers.describe_shapes(panels, scale) == finding + CRITERION


@pytest.mark.parametrize(
    ("line", "curve", "shaped"),
    [(0.101, 0.0, True), (0.099, 0.0, False), (0.3, 0.211, True), (0.3, 0.213, False)],
)
def test_s_shape_begins_at_both_limits_of_variance(line, curve, shaped):
    assert norm_layers.is_s_shaped(fitted(line, curve)) == shaped
