"""Text and plain values of a report, globs of module paths, and α0 by path."""

import json
from dataclasses import replace

import pytest

from dyt import Norm
from dyt.calibration_fit import Fit
from dyt.conversion_report import Kept, Replacement, Report, count_by_class
from dyt.norm_layout import NormLayout
from dyt.path_patterns import matches
from dyt.per_path_alpha0 import check_patterns_used, resolve_alpha0, resolve_shared_alpha0

FIT = Fit(
    alpha=0.25,
    shift=None,
    weight=None,
    bias=None,
    input_rms=12.345,
    saturated=0.1234,
    error=0.4567,
    worst_positions=((3, 0.9), (0, 0.5)),
)


def layer(path, **changes):
    values = {
        "old": "LayerNorm",
        "new": "DyT",
        "alpha0": 0.5,
        "shape": (8,),
        "channel_axis": -1,
        "affine": True,
        "bias": True,
    }
    return Replacement(path=path, **{**values, **changes})


LAYERS = (
    layer("a", aliases=("b.norm",)),
    layer("c", channel_axis=1, bias=False, shape=(2, 3), alpha0=1e-3),
    layer("d", new="LayerNorm", alpha0=None, affine=False, shape=None, replaced=False),
)


def text(*layers, **changes):
    report = Report(norm=Norm.dyt(), replacements=layers, **changes)
    return [" ".join(line.split()) for line in str(report).splitlines()]


def test_report_lists_each_layer_and_counts_them():
    lines = text(*LAYERS, kept=(Kept("k", "LayerNorm"),), left=(Kept("x", "BatchNorm2d"),) * 2)
    assert lines == [
        "path old new α0 shape",
        "a = b.norm LayerNorm DyT 0.5 8",
        "c LayerNorm DyT 0.001 2, 3 (axis 1) (no bias)",
        "d LayerNorm LayerNorm - any (no affine)",
        "DyT(α0=0.5): 3 norm layers found, 2 replaced",
        "kept by skip: 1 × LayerNorm",
        "left alone: 2 × BatchNorm2d",
    ]
    assert text(LAYERS[0])[-1] == "DyT(α0=0.5): 1 norm layers replaced"
    assert text(LAYERS[2])[-1] == "DyT(α0=0.5): 1 norm layers found, none replaced"


def test_report_has_the_fit_of_each_layer():
    scaled = Fit(**{**vars(FIT), "weight": object(), "scale": 1.23456, "worst_positions": ()})
    own = Fit(**{**vars(FIT), "weight": object(), "worst_positions": ()})
    lines = text(*(layer(str(i), fit=fit) for i, fit in enumerate((FIT, scaled, own, None))))
    assert lines[0].endswith("shape γ input rms |αx| > 2 error worst positions")
    assert lines[1].endswith("8 1 12.3 12.3% 0.457 3 (0.90), 0 (0.50)")
    assert lines[2].endswith("8 1.23 12.3 12.3% 0.457")
    assert lines[3].endswith("8 fitted 12.3 12.3% 0.457")
    assert lines[4].endswith("8 not called")


def test_report_as_plain_values():
    also = {"A": None, "B": NormLayout(weight="w", channel_axis=1)}
    report = Report(
        norm=Norm.dyt(2.0),
        replacements=(LAYERS[0], layer("e", fit=replace(FIT, shift=-0.5, scale=1.5))),
        kept=(Kept("k", "LayerNorm"),),
        also=also,
        skip=("k", "α"),
    )
    content = json.loads(report.to_json())
    assert Norm(**content["norm"]) == Norm.dyt(2.0)
    first, second = content["replacements"]
    assert (first["path"], first["aliases"], "error" in first) == ("a", ["b.norm"], False)
    assert second == {
        "path": "e",
        "old": "LayerNorm",
        "new": "DyT",
        "alpha0": 0.5,
        "shape": [8],
        "channel_axis": -1,
        "affine": True,
        "bias": True,
        "aliases": [],
        "replaced": True,
        "shift": -0.5,
        "scale": 1.5,
        "input_rms": 12.345,
        "saturated": 0.1234,
        "error": 0.4567,
        "worst_positions": [[3, 0.9], [0, 0.5]],
    }
    assert content["kept"] == [{"path": "k", "layer": "LayerNorm"}] and content["left"] == []
    layout = {"weight": "w", "bias": None, "channel_axis": 1, "width": None}
    assert content["also"] == {"A": None, "B": layout}
    assert content["skip"] == ["k", "α"] and '"α"' in report.to_json()
    assert report.paths == ("a", "b.norm", "e")
    assert (len(report), report[1], report[:1]) == (2, report.replacements[1], (LAYERS[0],))


def test_classes_are_counted_most_frequent_first():
    layers = [Kept("", name) for name in ("A", "B", "B")]
    assert count_by_class(layers) == "2 × B, 1 × A"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("encoder", "encoder.layers.0.norm1", True),
        ("enc*", "encoder.layers.0.norm1", True),
        ("*.norm1", "encoder.layers.0.norm1", True),
        ("norm1", "encoder.layers.0.norm1", False),
        ("encoder.layers", "encoder.layers2", False),
        ("encoder.layers.?", "encoder.layers.0", True),
        ("encoder.layers.?", "encoder.layers.10", False),
        ("Encoder", "encoder", False),
        ("a.b", "a", False),
    ],
)
def test_glob_includes_everything_inside_a_module(pattern, path, expected):
    assert matches(pattern, path) == expected


PATTERNS = (("*.attn", 0.8), ("blocks.0", 0.3), ("blocks.*", 0.2))


@pytest.mark.parametrize(
    ("path", "alpha0"),
    [("blocks.0.attn", 0.8), ("blocks.0.mlp", 0.3), ("blocks.1.mlp", 0.2), ("norm", 0.5)],
)
def test_first_pattern_gives_alpha0(path, alpha0):
    assert resolve_alpha0(PATTERNS, 0.5, path) == alpha0


def test_shared_layer_has_one_alpha0():
    assert resolve_shared_alpha0(PATTERNS, 0.5, ("blocks.0.attn", "x.attn")) == 0.8
    message = r"blocks.0.mlp = norm is one shared layer, .* assigns it 0.3 and 0.5"
    with pytest.raises(ValueError, match=message):
        resolve_shared_alpha0(PATTERNS, 0.5, ("blocks.0.mlp", "norm"))


def test_patterns_must_set_the_alpha0_of_a_layer():
    layers = [("blocks.0.attn",), ("norm", "blocks.0.mlp"), ("blocks.1.mlp",)]
    check_patterns_used(PATTERNS, layers)
    with pytest.raises(ValueError, match=r"'blocks.\*' sets the α0 of no layer: .*attn, norm\.$"):
        check_patterns_used(PATTERNS, layers[:2])
    with pytest.raises(ValueError, match=r"pattern '\*.attn' sets the α0 of no layer"):
        check_patterns_used((("*", 1.0), *PATTERNS), layers)
