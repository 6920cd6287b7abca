"""Panels of figures: what each function draws on its axes, and the data that it writes."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from matched.aggregation import CellSummary
from matched.report.figures import diagrams, searches, training
from matched.report.figures.canvas import COLORS, Canvas, PanelRuns, settings
from matched.report.figures.searches import PanelEntries
from matched.table import Metric

BLUE, ORANGE = COLORS[:2]


def described(canvas):
    """Return the panels in order: labels, scales, legend, ticks, and every line with its style."""
    panels = []
    for axis in canvas._figure.axes:
        legend = axis.get_legend()
        panels.append(
            {
                "title": axis.get_title(),
                "x": axis.get_xlabel(),
                "y": axis.get_ylabel(),
                "scales": (axis.get_xscale(), axis.get_yscale()),
                "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
                "lines": [
                    (line.get_color(), line.get_linestyle(), line.get_marker(), *_points(line))
                    for line in axis.get_lines()
                ],
            }
        )
    return panels


def _points(line):
    return [float(x) for x in line.get_xdata()], [
        round(float(y), 6) if math.isfinite(y) else None for y in line.get_ydata()
    ]


def panel(title, x, y, legend, lines, scales=("linear", "linear")):
    return {"title": title, "x": x, "y": y, "scales": scales, "legend": legend, "lines": lines}


def size(canvas):
    return tuple(round(float(inches), 2) for inches in canvas._figure.get_size_inches())


def runs(tmp_path, title, **files):
    """A panel of runs: arm → the lines of its metrics.jsonl."""
    found = {}
    for arm, lines in files.items():
        folder = tmp_path / title / arm
        folder.mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)
        found[arm] = SimpleNamespace(directory=folder, title=f"{title} · {arm}")
    return PanelRuns(title=title, runs=found)


# --- training


def test_losses_have_panels_of_rows_and_lines_of_arms(tmp_path):
    small = runs(
        tmp_path,
        "Small",
        LN=[{"step": 1, "loss": 3}, {"step": 1, "evaluation": {}}, {"step": 2, "loss": 2.5}],
        DyT=[{"step": 1, "loss": None}, {"step": 2, "loss": 2.75}],
    )
    large = runs(tmp_path, "Large", LN=[{"step": 5, "loss": 1.5}])
    canvas = Canvas("losses")
    training.draw_losses(canvas, [small, large])
    assert described(canvas) == [
        panel(
            *("Small", "step", "training loss", ["LN", "DyT"]),
            [
                (BLUE, "-", "None", [1.0, 2.0], [3.0, 2.5]),
                (ORANGE, "--", "None", [1.0, 2.0], [None, 2.75]),
            ],
        ),
        panel(*("Large", "step", "training loss", ["LN"]), [(BLUE, "-", "None", [5.0], [1.5])]),
    ]
    assert size(canvas) == (5.6, 2.3)
    assert canvas.columns == ("panel", "arm", "step", "loss")
    assert canvas.rows[:2] + canvas.rows[3:] == [
        ("Small", "LN", 1, 3.0),
        ("Small", "LN", 2, 2.5),
        ("Small", "DyT", 2, 2.75),
        ("Large", "LN", 5, 1.5),
    ]


def test_losses_of_a_run_that_logged_none_are_refused(tmp_path):
    empty = runs(tmp_path, "Small", LN=[{"step": 1, "evaluation": {}}])
    with pytest.raises(ValueError) as error:
        training.draw_losses(Canvas("losses"), [empty])
    assert str(error.value) == (
        f"{tmp_path}/Small/LN/metrics.jsonl has no loss; the run that computes it has to train"
    )


LAYERS = ("norm1", "norm2", "norm3")


def evaluation(epoch):
    """α grows by 0.1 and 1/std by 0.2 per epoch; the layers differ by 1 and 10."""
    numbers = {"top1": 0.0}
    for index, layer in enumerate(LAYERS):
        numbers[f"alpha/{layer}"] = index + epoch / 10
        numbers[f"inverse_std/{layer}"] = 10 * index + epoch / 5
    return {"step": 7 * epoch, "epoch": epoch, "evaluation": numbers}


def test_alpha_is_drawn_with_the_inverse_std_at_each_depth(tmp_path):
    lines = [{"step": 1, "loss": 3.0}, evaluation(1), evaluation(2)]
    canvas = Canvas("alpha")
    training.draw_alpha(canvas, runs(tmp_path, "ViT", DyT=lines), (0.3, 1.0))
    assert described(canvas) == [
        panel(
            *(f"ViT: {layer}", "epoch", "", ["α", "1/std"]),
            [
                (BLUE, "-", "o", [1.0, 2.0], [index + 0.1, index + 0.2]),
                (ORANGE, "--", "^", [1.0, 2.0], [10 * index + 0.2, 10 * index + 0.4]),
            ],
        )
        for index, layer in ((1, "norm2"), (2, "norm3"))
    ]
    assert size(canvas) == (5.6, 2.3)
    assert canvas.columns == ("layer", "epoch", "alpha", "inverse_std")
    assert canvas.rows == [
        ("norm2", 1, 1.1, 10.2),
        ("norm2", 2, 1.2, 10.4),
        ("norm3", 1, 2.1, 20.2),
        ("norm3", 2, 2.2, 20.4),
    ]
    with pytest.raises(ValueError, match=r"jsonl has no evaluation with 1/std of the layers' inp"):
        training.draw_alpha(canvas, runs(tmp_path, "bare", DyT=[{"step": 1, "loss": 3.0}]), (0.3,))


# --- diagrams


def test_tanh_is_drawn_for_each_alpha():
    canvas = Canvas("tanh")
    diagrams.draw_tanh(canvas, (0.5, 2.0))
    (shown,) = described(canvas)
    lines = shown.pop("lines")
    assert shown == {
        "title": "",
        "x": "x",
        "y": "tanh(αx)",
        "scales": ("linear", "linear"),
        "legend": ["α = 0.5", "α = 2"],
    }
    assert [line[:3] for line in lines] == [(BLUE, "-", "None"), (ORANGE, "--", "None")]
    for alpha, (*_, x, y) in zip((0.5, 2.0), lines, strict=True):
        assert (x[0], x[1], x[-1]) == (-6.0, -5.95, 6.0)
        assert y[0] == -y[-1] == pytest.approx(math.tanh(-6 * alpha), abs=1e-6)
    assert size(canvas) == (3.2, 2.4)
    assert canvas.columns == ("alpha", "x", "y")
    assert canvas.rows[140] == (0.5, "1.00", "0.462117")  # tanh(0.5)


def test_block_diagram_has_a_norm_layer_and_dyt():
    canvas = Canvas("block")
    diagrams.draw_block(canvas)
    boxes = [
        [
            (text.get_text(), *text.get_position(), text.get_color())
            for text in axis.texts
            if text.get_text()
        ]
        for axis in canvas._figure.axes
    ]
    assert boxes == [
        [
            (norm, 5, 2.2, "white"),
            ("Attention / FFN / …", 5, pytest.approx(5.4), "black"),
            ("+", 5, pytest.approx(8.6), "black"),
        ]
        for norm in ("Norm layer", "DyT:  γ · tanh(αx) + β")
    ]
    colors = [axis.texts[0].get_bbox_patch().get_facecolor()[:3] for axis in canvas._figure.axes]
    assert colors[0] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))  # COLORS[0]
    assert colors[1] == pytest.approx((0xD5 / 255, 0x5E / 255, 0))
    arrows = [
        (text.xy[1], text.xyann[1]) for text in canvas._figure.axes[0].texts if not text.get_text()
    ]
    assert arrows == [
        pytest.approx(pair) for pair in ((1.6, 0.2), (4.4, 3.0), (7.6, 6.2), (10.8, 9.4))
    ]
    residual = ("black", "-", "None", [5.0, 0.6, 0.6, 4.2], [0.8, 0.8, 8.6, 8.6])
    for shown, axis in zip(described(canvas), canvas._figure.axes, strict=True):
        assert shown["lines"] == [residual] and not axis.axison
        assert (axis.get_xlim(), axis.get_ylim()) == ((0, 10), (0, 12))
    assert size(canvas) == (4.6, 3.0) and canvas.rows == []


# --- searches

LOSS = Metric(key="loss", label="loss", direction="lower")


def trial(values, mean, std=None, width=8):
    seeds = {} if mean is None else {0: mean} if std is None else {0: mean - std, 1: mean + std}
    return SimpleNamespace(
        trial=SimpleNamespace(
            values=values,
            label="/".join(f"{value:g}" for value in values.values()),
            run=SimpleNamespace(config=SimpleNamespace(network=SimpleNamespace(width=width))),
        ),
        cell=CellSummary(values=seeds, diverged=0, states=()),
    )


def entry(arm, *trials, best=0):
    """A cell with a search over these trials."""
    search = SimpleNamespace(
        trials=trials,
        best=None if best is None else trials[best],
        metric=LOSS,
        search=SimpleNamespace(parameters=tuple(trials[0].trial.values)),
    )
    return SimpleNamespace(arm=arm, metric=LOSS, search=search)


def ticks(axis):
    """Return the places and texts of the ticks of a drawn axis."""
    places = [float(place) for place in axis.get_majorticklocs()]
    return dict(zip(places, axis.get_major_formatter().format_ticks(places), strict=True))


def test_best_alpha0_has_our_runs_left_and_the_papers_right():
    ours = [
        entry("wide", trial({"alpha0": 0.2}, 1.0, width=64)),
        entry("narrow", trial({"alpha0": 0.5}, 1.0, width=24), trial({"alpha0": 1}, 0.5), best=0),
    ]
    printed = {"attention": {1024.0: 1.0, 4096.0: 0.8}, "other": {4096.0: 0.2}}
    canvas = Canvas("best")
    panels = [PanelEntries(title="toys", entries=ours)]
    searches.draw_best_alpha0(canvas, panels, printed, "network.width", "mini")
    axes = {"x": "width of the model", "y": "best α0", "scales": ("log", "log")}
    assert described(canvas) == [
        {
            **axes,
            "title": "Our runs, mini scale",
            "legend": ["toys"],
            "lines": [(BLUE, "-", "o", [24.0, 64.0], [0.5, 0.2])],
        },
        {
            **axes,
            "title": "As printed in the paper",
            "legend": ["attention", "other"],
            "lines": [
                (BLUE, "-", "o", [1024.0, 4096.0], [1.0, 0.8]),
                (ORANGE, "--", "^", [4096.0], [0.2]),
            ],
        },
    ]
    left, right = canvas._figure.axes
    assert ticks(left.xaxis) == {64.0: "64"}, "powers of two, if there is one"
    assert ticks(left.yaxis) == {0.2: "0.2", 0.5: "0.5"}
    assert ticks(right.xaxis) == {1024.0: "1024", 4096.0: "4096"}
    assert left.xaxis.get_minor_formatter()(30.0) == ""
    assert size(canvas) == (6.4, 2.6) and left.margins() == (0.12, 0.12)
    assert canvas.columns == ("source", "series", "width", "alpha0")
    assert canvas.rows == [
        ("Our runs, mini scale", "toys", "24", "0.5"),
        ("Our runs, mini scale", "toys", "64", "0.2"),
        ("As printed in the paper", "attention", "1024", "1"),
        ("As printed in the paper", "attention", "4096", "0.8"),
        ("As printed in the paper", "other", "4096", "0.2"),
    ]


def test_best_alpha0_without_a_best_value_is_refused():
    panels = [
        PanelEntries(title="toys", entries=[entry("8", trial({"alpha0": 1}, None), best=None)])
    ]
    with pytest.raises(ValueError, match=r"^toys: the search of 8 has no best value$"):
        searches.draw_best_alpha0(Canvas("best"), panels, {}, "network.width", "mini")


def test_values_tried_are_drawn_with_their_spread_and_the_baseline():
    trials = [trial({"lr": 0.1}, 2.0, 0.5), trial({"lr": 0.2}, None), trial({"lr": 0.4}, 3.0)]
    base = SimpleNamespace(
        arm="LN",
        metric=LOSS,
        search=None,
        ours=CellSummary(values={0: 1.0, 1: 1.5}, diverged=0, states=()),
    )
    canvas = Canvas("values")
    tuned = PanelEntries(title="Small", entries=[base, entry("DyT", *trials)])
    alpha = PanelEntries(title="Large", entries=[entry("DyT", trial({"alpha0": 0.5}, 2.0))])
    searches.draw_values(canvas, [tuned, alpha])
    small, large = described(canvas)
    horizontal, drawn, *_ = small.pop("lines")
    assert horizontal == (BLUE, "--", "None", [0.0, 1.0], [1.25, 1.25])
    assert drawn == (ORANGE, "-", "^", [0.1, 0.4], [2.0, 3.0])
    assert small == {
        "title": "Small",
        "x": "lr",
        "y": "loss",
        "scales": ("log", "linear"),
        "legend": ["LN", "DyT"],
    }
    assert (large["title"], large["x"], large["y"]) == ("Large", "α0", "loss")
    left, _ = canvas._figure.axes
    assert ticks(left.xaxis) == {0.1: "0.1", 0.2: "0.2", 0.4: "0.4"}
    (bars,) = left.containers
    (segments,) = bars.lines[2]
    deviation = 0.5 * math.sqrt(2)  # of two seeds
    ends = [float(y) for segment in segments.get_segments() for _, y in segment]
    assert ends == pytest.approx([2.0 - deviation, 2.0 + deviation, 3.0, 3.0])
    assert size(canvas) == (4.6, 2.3)
    assert canvas.columns == ("panel", "arm", "value", "metric", "mean", "std")
    assert canvas.rows == [
        ("Small", "LN", "", "loss", 1.25, pytest.approx(0.25 * math.sqrt(2))),
        ("Small", "DyT", "0.1", "loss", 2.0, pytest.approx(deviation)),
        ("Small", "DyT", "0.2", "loss", None, None),
        ("Small", "DyT", "0.4", "loss", 3.0, None),
        ("Large", "DyT", "0.5", "loss", 2.0, None),
    ]


def test_baseline_without_a_number_has_no_line():
    empty = CellSummary(values={}, diverged=0, states=())
    base = SimpleNamespace(arm="LN", metric=LOSS, search=None, ours=empty)
    canvas = Canvas("values")
    tuned = entry("DyT", trial({"lr": 0.1}, 2.0))
    searches.draw_values(canvas, [PanelEntries(title="Small", entries=[base, tuned])])
    (shown,) = described(canvas)
    assert shown["legend"] == ["DyT"] and shown["lines"][0][3:] == ([0.1], [2.0])
    assert canvas.rows[0] == ("Small", "LN", "", "loss", None, None)


def test_pairs_tried_are_a_map_with_the_first_value_upwards():
    values = [(0.5, 0.2, 1.0), (0.5, 0.1, 2.0), (1.0, 0.2, 3.0), (1.0, 0.4, None)]
    trials = [trial({"alpha0_attention": y, "lr": x}, mean) for y, x, mean in values]
    canvas = Canvas("pairs")
    searches.draw_pairs(canvas, [PanelEntries(title="Small", entries=[entry("8", *trials)])])
    axis, bar = canvas._figure.axes
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == (
        "Small",
        "lr",
        "α0 attention",
    )
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0.1", "0.2", "0.4"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["0.5", "1"]
    image = np.ma.filled(axis.images[0].get_array(), np.nan)
    assert np.array_equal(image, [[2, 1, np.nan], [np.nan, 3, np.nan]], equal_nan=True)
    assert axis.images[0].origin == "lower" and bar.get_ylabel() == "loss"
    # White on the dark colours, which are those of small values.
    texts = [(*text.get_position(), text.get_text(), text.get_color()) for text in axis.texts]
    assert texts == [
        (0, 0, "2.000", "black"),
        (1, 0, "1.000", "white"),
        (1, 1, "3.000", "black"),
    ]
    assert {(text.get_ha(), text.get_va()) for text in axis.texts} == {("center", "center")}
    assert size(canvas) == (3.0, 2.8)
    assert canvas.columns == ("panel", "x", "y", "mean", "std")
    assert canvas.rows == [("Small", f"{x:g}", f"{y:g}", mean, None) for y, x, mean in values]
    one = PanelEntries(title="Small", entries=[entry("8", trial({"lr": 0.5}, 1.0))])
    with pytest.raises(ValueError, match=r"^Small: a map needs a search of two values$"):
        searches.draw_pairs(canvas, [one])


# --- files


def test_canvas_writes_pictures_and_data(tmp_path):
    canvas = Canvas("fig.smoke")
    with settings():
        canvas.axes(1, 1, width=1.0, height=2.0)
        canvas.columns = ("a", "b")
        canvas.add_rows([(1, "x"), (2, "y")])
        paths = canvas.save(tmp_path / "new")
    assert [path.name for path in paths] == ["fig.smoke.svg", "fig.smoke.png", "fig.smoke.csv"]
    assert paths[2].read_text() == "a,b\n1,x\n2,y\n"
    header = paths[1].read_bytes()[:24]  # a PNG of 150 dots per inch
    assert (header[:4], int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (
        b"\x89PNG",
        150,
        300,
    )
    assert b"Software" not in paths[1].read_bytes() and "<dc:date>" not in paths[0].read_text()
    canvas.rows = []
    assert [path.suffix for path in canvas.save(tmp_path / "new")] == [".svg", ".png"]
