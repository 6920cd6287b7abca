"""Lines and file of a `replacing` block, and α of layers whose optimizer does not have it."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dyt import Derf, DyT, Norm
from dyt.conversion_report import Kept, Replacement, Report
from dyt.replacing_report import (
    Network,
    list_notes,
    nothing_message,
    summarize,
    write_report,
)
from dyt.unassigned_alphas import add_missing_scalars, layers_without_optimizer


def network(name="Net", replaced=1, unchanged=0, kept=(), left=()):
    """A network with so many replaced and unchanged norm layers."""
    layers = [
        Replacement(
            path=f"norm{i}",
            old="LayerNorm",
            new="DyT",
            alpha0=0.5,
            shape=(8,),
            channel_axis=-1,
            affine=True,
            bias=True,
            replaced=i < replaced,
        )
        for i in range(replaced + unchanged)
    ]
    report = Report(
        norm=Norm.dyt(),
        replacements=tuple(layers),
        kept=tuple(Kept("k", layer) for layer in kept),
        left=tuple(Kept("l", layer) for layer in left),
    )
    return Network(name, report, lambda: None)


@pytest.mark.parametrize(
    ("networks", "line"),
    [
        ([network()], "DyT(α0=0.5): 1 norm layer replaced (Net 1)"),
        (
            [network(replaced=2), network("Head", 0), network("Net"), network("Ema", 3)],
            "DyT(α0=0.5): 6 norm layers replaced (Net 3, Ema 3)",
        ),
        (
            [network(replaced=2, unchanged=1)],
            "DyT(α0=0.5): 3 norm layers found, 2 replaced (Net 3)",
        ),
        (
            [network(replaced=0, unchanged=1)],
            "DyT(α0=0.5): 1 norm layer found, none replaced (Net 1)",
        ),
    ],
)
def test_summary_counts_layers_in_total_and_by_network(networks, line):
    assert summarize(Norm.dyt(), networks) == line


def test_notes_are_one_line_each():
    networks = [network(kept=("LayerNorm", "RMSNorm")), network(kept=("LayerNorm",))]
    assert list_notes(networks, added=4, orphans=1) == [
        "4 scalars (α, s) were in no parameter group and joined the group of their γ",
        "α of 1 layers has gradients but is in no optimizer",
        "kept by skip: 2 × LayerNorm, 1 × RMSNorm",
    ]
    assert list_notes([network()], added=0, orphans=0) == []


def test_message_of_a_block_that_replaced_nothing_has_every_reason():
    start = "no norm layer of a network was built in the block, so nothing was replaced."
    end = " Networks that were built before the block are not changed."
    assert nothing_message([], [], []) == start + end
    networks = [network(replaced=0, kept=("LayerNorm",), left=("BatchNorm2d", "GroupNorm"))]
    alone = [nn.LayerNorm(2), nn.LayerNorm(3)]
    calls = ["a.py:1 (F.layer_norm)", "b.py:2 (torch.rms_norm)"]
    assert nothing_message(networks, alone, calls) == (
        f"{start} Not part of any network: 2 × LayerNorm. Kept by skip: 1 × LayerNorm."
        " Left alone: 1 × BatchNorm2d, 1 × GroupNorm; name such classes in also."
        f" Functional norms are not replaced: a.py:1 (F.layer_norm), b.py:2 (torch.rms_norm).{end}"
    )


def test_report_file_has_networks_notes_and_calls(tmp_path):
    file = tmp_path / "dyt.json"
    file.write_text("old")
    one = network(kept=("LayerNorm",))
    write_report(file, "α: a summary", [one], ["a note"], ["a.py:1 (F.layer_norm)"])
    text = file.read_text(encoding="utf-8")
    assert json.loads(text) == {
        "summary": "α: a summary",
        "networks": [{"class": "Net", **json.loads(one.report.to_json())}],
        "notes": ["a note"],
        "functional_norms": ["a.py:1 (F.layer_norm)"],
    }
    assert '"α: a summary"' in text
    assert [path.name for path in tmp_path.iterdir()] == ["dyt.json"]


class TestMissingScalars:
    """α and s join the group of the γ of their layer."""

    def layers(self):
        layers = {"first": DyT(4), "fixed": DyT(4, alpha="fixed"), "last": Derf(4)}
        layers |= {"plain": DyT(4, affine=False), "frozen": DyT(4)}
        layers["frozen"].alpha.requires_grad_(False)
        return layers

    def test_scalars_are_added_once_to_the_group_of_gamma(self):
        layers = self.layers()
        one, two = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        groups = [
            {"params": [one, layers["last"].weight]},
            {"params": [layers["first"].weight, layers["fixed"].weight, two]},
            {"params": [layers["last"].shift, layers["frozen"].weight]},
        ]
        optimizer = SimpleNamespace(param_groups=groups)
        assert add_missing_scalars(optimizer, layers.values()) == 2
        assert add_missing_scalars(optimizer, layers.values()) == 0
        names = {id(p): f"{k}.{n}" for k, m in layers.items() for n, p in m.named_parameters()}
        names |= {id(one): "one", id(two): "two"}
        assert [[names[id(p)] for p in group["params"]] for group in groups] == [
            ["one", "last.weight", "last.alpha"],
            ["first.weight", "fixed.weight", "two", "first.alpha"],
            ["last.shift", "frozen.weight"],
        ]

    def test_added_scalars_are_named_like_their_gamma(self):
        layer, outer = Derf(4), DyT(4)
        group = {
            "params": [outer.weight, layer.bias, layer.weight],
            "param_names": ["weight", "blocks.0.norm.bias", "blocks.0.norm.weight"],
        }
        optimizer = SimpleNamespace(param_groups=[group])
        assert add_missing_scalars(optimizer, [layer, outer]) == 3
        assert group["param_names"][3:] == ["alpha", "blocks.0.norm.alpha", "blocks.0.norm.shift"]
        assert [id(p) for p in group["params"][3:]] == [
            id(outer.alpha), id(layer.alpha), id(layer.shift),
        ]  # fmt: skip

    def test_layers_are_counted_whose_alpha_is_trained_by_nothing(self):
        layers = self.layers()
        for layer in layers.values():
            layer(torch.ones(2, 4)).sum().backward()
        held = SimpleNamespace(param_groups=[{"params": [layers["first"].alpha]}])
        assert layers_without_optimizer(layers.values(), [held]) == 2  # last and plain
        held.param_groups.append({"params": [layers["last"].alpha]})
        assert layers_without_optimizer(layers.values(), [held]) == 2, "s is trained by nothing"
        other = SimpleNamespace(param_groups=[{"params": [layers["last"].shift]}])
        assert layers_without_optimizer(layers.values(), [held, other]) == 1
        layers["plain"].alpha.grad = None
        assert layers_without_optimizer(layers.values(), [held, other]) == 0
