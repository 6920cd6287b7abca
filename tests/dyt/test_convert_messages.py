"""Report, warnings and errors of `convert`."""

import pickle

import pytest
import torch
from torch import nn

from dyt import Norm, convert
from dyt.conversion_report import Kept, Replacement, Report

from .test_convert import Net, conv_net, convert_fresh, norms


def test_convert_reports_the_request_and_every_norm_layer():
    net = nn.ModuleDict(
        {
            "a": nn.LayerNorm((2, 8)),
            "b": nn.RMSNorm(8),
            "c": nn.BatchNorm1d(8),
            "d": nn.GroupNorm(2, 8),
            "e": nn.RMSNorm(8, elementwise_affine=False),
        }
    )
    net["f"] = net["a"]
    report = convert(net, Norm.dyt(0.75), also=nn.BatchNorm1d, skip="b", dry_run=True)
    given = {"new": "DyT", "alpha0": 0.75}
    assert report == Report(
        norm=Norm.dyt(0.75),
        replacements=(
            Replacement(
                path="a", aliases=("f",), old="LayerNorm", shape=(2, 8), channel_axis=-1,
                affine=True, bias=True, **given,
            ),
            Replacement(
                path="c", old="BatchNorm1d", shape=(8,), channel_axis=1, affine=True, bias=True,
                **given,
            ),
            Replacement(
                path="e", old="RMSNorm", shape=(8,), channel_axis=-1, affine=False, bias=False,
                **given,
            ),
        ),
        kept=(Kept("b", "RMSNorm"),),
        left=(Kept("d", "GroupNorm"),),
        also={"BatchNorm1d": None},
        skip=("b",),
    )  # fmt: skip
    assert not norms(net), "a dry run changes nothing"


def test_convert_dry_run_or_without_new_layers_does_not_warn(recwarn):
    convert(Net(), copy_affine=True, dry_run=True)
    convert(Net(), Norm.own(), copy_affine=True)
    convert(Net(), Norm.layer_norm(), copy_affine=True)
    assert [str(warning.message) for warning in recwarn] == []
    with pytest.warns(UserWarning) as warned:
        convert(Net(), copy_affine=True)
    assert [str(warning.message) for warning in warned] == [
        "copy_affine keeps γ and β, but the network's outputs change. Pass calibrate=batch."
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"norm": "dyt"},
            "norm = 'dyt' is not a Norm: pass Norm.dyt(alpha0=0.5), Norm.derf(), Norm.layer_norm(),"
            " Norm.batch_norm() or Norm.own().",
        ),
        (
            {"norm": Norm.layer_norm(), "calibrate": torch.ones(2, 8)},
            "calibrate fits α of DyT and Derf, not of LN. Remove the argument.",
        ),
        (
            {"norm": Norm.dyt(squash="identity"), "calibrate": torch.ones(2, 8)},
            "calibrate fits α of DyT and Derf, not of DyT(identity, α0=0.5). Remove the argument.",
        ),
        (
            {"norm": Norm.dyt(alpha="absent"), "calibrate": torch.ones(2, 8)},
            "calibrate has nothing to fit: DyT(no α) has no α. Remove the argument.",
        ),
        (
            {"norm": Norm.dyt("calibrated")},
            "DyT(calibrated) needs data to fit α on. Pass calibrate=batch.",
        ),
        ({"skip": ""}, "skip has '' where a glob of module paths was expected."),
        (
            {"skip": "blocks.2"},
            "skip pattern 'blocks.2' matches no module of Net. Correct it (see"
            " model.named_modules()) or remove it.",
        ),
        (
            {"also": nn.GroupNorm},
            "also lists GroupNorm, but Net has none. Remove it.",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.partition(" ")[0],
)
def test_convert_errors_in_full(options, message):
    with pytest.raises(ValueError) as error:
        convert(Net(), **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (conv_net, {}, r"no LN or RMSNorm.*1 × BatchNorm2d, 1 × GroupNorm.*also=\(BatchNorm2d,\)"),
        (lambda: nn.Linear(2, 2), {}, "Linear has no LN or RMSNorm to replace.$"),
        (lambda: convert_fresh(Norm()), {}, "has 5 × DyT: it seems to be converted"),
        (Net, {"skip": "*"}, "Kept by skip: 5 × LayerNorm"),
        (lambda: nn.LayerNorm(4), {}, r"itself a norm layer \(LayerNorm\)"),
        (lambda: nn.BatchNorm1d(4), {"also": nn.BatchNorm1d}, "itself a norm layer"),
        (Net, {"skip": ("blocks.2",)}, "skip pattern 'blocks.2' matches no module of Net"),
        (Net, {"skip": ("blocks.0", "attn_nrom")}, "skip pattern 'attn_nrom' matches no"),
        (Net, {"skip": (3,)}, "skip has 3 where a glob"),
        (Net, {"also": nn.BatchNorm2d}, "also lists BatchNorm2d, but Net has none"),
        (Net, {"also": ("BatchNorm2d",)}, "also = 'BatchNorm2d' is not a module class"),
        (Net, {"norm": "dyt"}, "norm = 'dyt' is not a Norm: pass Norm.dyt"),
        (lambda: [Net()], {}, "convert needs an nn.Module, but got list"),
        (
            Net,
            {"norm": Norm.dyt(alpha0_at=(("*.attention_norm", 0.8),))},
            r"'\*.attention_norm' sets the α0 of no layer.*blocks.0.attn_norm",
        ),
        (
            Net,
            {"norm": Norm.dyt(alpha0_at=(("blocks", 0.8), ("blocks.1", 0.2)))},
            "'blocks.1' sets the α0 of no layer: either nothing matches it or an earlier pattern",
        ),
    ],
)
def test_convert_errors_are_explained_and_change_nothing(make, options, message):
    net = make()
    kinds = [type(m) for m in net.modules()] if isinstance(net, nn.Module) else []
    with pytest.raises(ValueError, match=message):
        convert(net, **options)
    if kinds:
        assert [type(m) for m in net.modules()] == kinds


def test_convert_own_raises_the_same_errors():
    with pytest.raises(ValueError, match="no LN or RMSNorm"):
        convert(conv_net(), Norm.own())
    with pytest.raises(ValueError, match="matches no module"):
        convert(Net(), Norm.own(), skip="blocks.7")


def test_convert_report_prints_aligned_table():
    net = nn.ModuleDict({"a": nn.LayerNorm(8), "long_name": nn.RMSNorm((2, 4))})
    report = convert(net, Norm.dyt(0.2, alpha0_at=(("a", 0.8),)))
    assert str(report).splitlines() == [
        "path       old        new  α0   shape",
        "a          LayerNorm  DyT  0.8  8",
        "long_name  RMSNorm    DyT  0.2  2, 4 (no bias)",
        "DyT(α0=0.2, a: 0.8): 2 norm layers replaced",
    ]
    assert [r.path for r in report] == ["a", "long_name"]
    assert report[-1].path == "long_name"
    assert report[:1] == (report[0],)
    assert pickle.loads(pickle.dumps(report)) == report
