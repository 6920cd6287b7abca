"""Blocks of `replacing` inside of each other, in other threads and processes, and their reports."""

import copy
import threading

import pytest
import torch
from torch import nn

from dyt import DyT, Norm, NormLayout, ReplacementError, convert, replacing

from .test_replacing import DYT, Net, RootMeanSquareNorm, built


def test_replacing_nested_blocks_and_threads():
    networks = {}

    def build_in_thread():
        networks["thread"] = Net()

    with replacing(DYT):
        with replacing(Norm.derf(0.3)):
            networks["inner"] = Net()
        with replacing(Norm.own()):
            networks["own"] = Net()
        thread = threading.Thread(target=build_in_thread)
        thread.start()
        thread.join()
        networks["outer"] = Net()
    kinds = {name: type(network.second).__name__ for name, network in networks.items()}
    assert kinds == {
        "inner": "DerfRootMeanSquareNorm",
        "own": "RootMeanSquareNorm",
        "thread": "RootMeanSquareNorm",
        "outer": "DyTRootMeanSquareNorm",
    }


def test_step_in_an_inner_block_checks_that_block_alone():
    with replacing(DYT):
        with replacing(DYT):
            network = Net()
            torch.optim.SGD(network.parameters(), lr=0.1).step()
        later = Net()
    assert isinstance(later.second, DyT)


def test_other_ranks_print_nothing(tmp_path, monkeypatch, capsys):
    file = tmp_path / "report.json"
    monkeypatch.setenv("RANK", "1")
    built(Net, report_file=file)
    assert capsys.readouterr().err == "" and not file.exists()
    monkeypatch.setenv("RANK", "0")
    built(Net, report_file=file)
    assert "3 norm layers replaced" in capsys.readouterr().err and file.exists()


@pytest.mark.parametrize("code", [3, "message"])
def test_failed_script_keeps_its_exit_status_although_nothing_was_replaced(code):
    with pytest.raises(SystemExit) as ending, replacing(DYT):
        raise SystemExit(code)
    assert ending.value.code == code
    for code in (None, 0):
        with pytest.raises(ReplacementError, match="nothing was replaced"), replacing(DYT):
            raise SystemExit(code)


@pytest.mark.parametrize(
    ("norm", "new", "alpha0"),
    [(Norm.derf(0.3), "Derf", 0.3), (Norm.dyt(alpha="absent"), "DyT", None)],
    ids=str,
)
def test_copied_layers_are_reported_like_their_original(norm, new, alpha0):
    with replacing(norm) as block:
        network = Net()
        copied = nn.Sequential(copy.deepcopy(network.second), copy.deepcopy(network.first[1]))
        mixed = nn.Sequential(nn.LayerNorm(8), copy.deepcopy(network.second))
    original, twin, third = (entry.report for entry in block.networks)
    assert [(r.path, r.old, r.new, r.alpha0, r.shape, r.affine, r.bias) for r in twin] == [
        ("0", "RootMeanSquareNorm", new, alpha0, (8,), True, False),
        ("1", "LayerNorm", new, alpha0, (8,), True, True),
    ]
    assert [r.path for r in original] == ["first.1", "second", "last"]
    assert [(r.path, r.old) for r in third] == [("0", "LayerNorm"), ("1", "RootMeanSquareNorm")]
    assert len(copied) == len(mixed) == 2


def test_convert_finds_nothing_to_do_in_a_replaced_network():
    message = "has no LN or RMSNorm to replace. It has 2 × DyTLayerNorm, 1 × DyTRootMeanSquareNorm"
    with pytest.raises(ValueError, match=message):
        convert(built(Net), DYT)


def test_functional_norms_are_searched_in_the_classes_of_all_networks(monkeypatch):
    given = []

    def search(used, replaced):
        given.append((set(used), set(replaced)))
        return []

    monkeypatch.setattr("dyt.replacing_block.functional_norm_calls", search)
    with replacing(DYT):
        keep = [Net(), nn.Sequential(nn.GELU(), nn.LayerNorm(8))]
    used = {Net, nn.Sequential, nn.Linear, nn.LayerNorm, RootMeanSquareNorm, nn.GELU}
    assert given == [(used, {nn.LayerNorm, RootMeanSquareNorm})] and len(keep) == 2


def test_scalars_added_to_several_optimizers_are_counted_together(capsys):
    with replacing(Norm.derf(0.7)):
        networks = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2)]
        for network in networks:
            named = network.named_parameters()
            torch.optim.SGD([p for name, p in named if name.endswith(("ght", "bias"))], lr=0.1)
    assert "dyt: 4 scalars (α, s) were in no parameter group" in capsys.readouterr().err


def test_report_of_a_network_has_norm_and_skipped_paths():
    with replacing(DYT, skip="second") as block:
        network = Net()
    (entry,) = block.networks
    assert (entry.report.norm, entry.report.skip) == (DYT, ("second",))
    assert entry.module() is network and entry.name == "Net"


def test_block_in_a_constructor_converts_what_it_builds():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            with replacing(DYT):
                self.inner = Net()
                self.kind = type(self.inner.second).__name__
            self.norm = nn.LayerNorm(8)

    network = built(Outer, Norm.own())
    assert network.kind == "DyTRootMeanSquareNorm"
    assert type(network.norm) is nn.LayerNorm


def test_from_pretrained_may_return_more_than_the_network():
    class Pretrained(Net):
        @classmethod
        def from_pretrained(cls, *parts):
            network = cls()
            network.kinds = [type(network.second).__name__]
            return (network, *parts)

    network, part = built(lambda: Pretrained.from_pretrained("info"))
    assert network.kinds == ["RootMeanSquareNorm"], "weights are loaded into the norm layers"
    assert isinstance(network.second, DyT) and part == "info"


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_network_is_left_as_it_is():
    with replacing(DYT):
        network = Net()
        plain = nn.Sequential(nn.Linear(8, 8))
        x = torch.randn(2, 8)
        scripted, traced = torch.jit.script(plain), torch.fx.symbolic_trace(plain)
        assert torch.equal(scripted(x), traced(x))
    assert isinstance(network.second, DyT)


class Standardize(nn.Module):
    """A norm whose name does not say so."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return torch.tanh(x) * self.scale


@pytest.mark.parametrize("key", [Standardize, "Standardize"], ids=["class", "name"])
def test_also_may_be_a_class_that_is_not_named_norm(key):
    with replacing(DYT, also={key: NormLayout(weight="scale")}) as block:
        network = nn.Sequential(nn.Linear(8, 8), Standardize(8))
        network.append(Standardize(8))
    assert isinstance(network[1], DyT) and isinstance(network[2], DyT)
    assert [(n.name, n.report.paths) for n in block.networks] == [
        ("Sequential", ("1",)),
        ("Sequential", ("2",)),
    ]
