"""Tests of `replacing`: networks built in the block, what scripts do with them, and its errors."""

import copy
import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import LayerNorm as ImportedEarlier
from torch.nn import functional as F

from dyt import DyT, Norm, ReplacementError, convert, replacing
from dyt.functional_norms import functional_norm_calls

DYT = Norm.dyt(0.7)


class RootMeanSquareNorm(nn.Module):
    """A norm as scripts write it."""

    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.scale


class Net(nn.Module):
    """Map x (B, 8) to (B, 8), with three norms; initializes its parameters as a script would."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 8), ImportedEarlier(8))
        self.second = RootMeanSquareNorm(8)
        self.last = nn.LayerNorm(8, elementwise_affine=False)
        for parameter in self.parameters():  # draws for whatever parameters there are
            nn.init.normal_(parameter)

    def forward(self, x):
        return self.last(x + self.second(self.first(x)))


def built(make, norm=DYT, **options):
    with replacing(norm, **options):
        return make()


@pytest.mark.parametrize("norm", [DYT, Norm.derf(0.7, 0.1), Norm.own(), Norm.batch_norm()], ids=str)
def test_replacing_equals_convert(norm, assert_same_network):
    torch.manual_seed(0)
    network = built(Net, norm)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    expected = Net()
    convert(expected, norm)
    assert_same_network(network, expected)
    assert torch.equal(after, torch.get_rng_state())


def test_replacing_own_changes_no_module():
    network = built(Net, Norm.own())
    kinds = [type(m) for m in network.modules() if not list(m.children())]
    assert kinds == [nn.Linear, nn.LayerNorm, RootMeanSquareNorm, nn.LayerNorm]


def test_replacing_leaves_everything_outside_unchanged():
    before = {c: dict(vars(c)) for c in (nn.Module, nn.LayerNorm, RootMeanSquareNorm, Net)}
    optimizer = torch.optim.Optimizer.__init__
    earlier = Net()
    with replacing(DYT):
        Net()
        wrapped = nn.Sequential(earlier)
    assert isinstance(wrapped[0].second, RootMeanSquareNorm)
    assert isinstance(Net().second, RootMeanSquareNorm)
    assert {c: dict(vars(c)) for c in before} == before
    assert torch.optim.Optimizer.__init__ is optimizer
    with pytest.raises(RuntimeError, match="script"), replacing(DYT):
        raise RuntimeError("script")
    assert {c: dict(vars(c)) for c in before} == before


def test_replaced_layers_are_instances_of_their_norm(assert_same_network):
    network = built(Net)
    layer = network.first[1]
    assert isinstance(layer, DyT)
    assert isinstance(layer, nn.LayerNorm)
    assert isinstance(network.second, RootMeanSquareNorm)
    assert "LayerNorm" in type(layer).__name__
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(other.first[1]) is type(layer)
        assert_same_network(other, network)
    x = torch.randn(2, 8)
    torch.testing.assert_close(torch.jit.script(network.first)(x), network.first(x))


def test_replacing_sees_modules_attached_later():
    with replacing(DYT) as block:
        network = Net()
        network.head = nn.LayerNorm(8)
        network.add_module("spare", copy.deepcopy(network.second))
        blocks = nn.ModuleList()
        blocks.append(RootMeanSquareNorm(8))
        blocks.append(nn.Linear(8, 8))
    assert isinstance(network.head, DyT)
    assert isinstance(blocks[0], DyT)
    assert [r.path for r in block.replacements] == [
        "first.1",
        "second",
        "last",
        "head",
        "spare",
        "0",
    ]


def test_replacing_transformer_encoder_copies_and_runs():
    with replacing(DYT) as block:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(8))
        whole = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    counts = {network.name: len(network.report) for network in block.networks}
    assert counts == {
        "TransformerEncoderLayer": 2,
        "TransformerEncoder": 3 * 2 + 1,
        "Transformer": 2 + 3 + 2,
    }
    x = torch.randn(2, 4, 8)
    with torch.no_grad():
        trained, evaluated = encoder(x), encoder.eval()(x)
    assert trained.shape == evaluated.shape
    assert whole(x, x).isfinite().all()


def test_own_and_dyt_list_the_same_layers():
    def build():
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return nn.TransformerEncoder(layer, 2), copy.deepcopy(Net()), nn.ModuleList([Net(), Net()])

    lists = []
    for norm in (Norm.own(), DYT):
        with replacing(norm) as block:
            build()
        lists.append([(n.name, n.report.paths) for n in block.networks])
    assert lists[0] == lists[1]


def test_replacing_gives_ema_and_state_dicts_alpha(assert_same_network):
    with replacing(DYT):
        network = Net()
        ema = copy.deepcopy(network)
        other = Net()
    assert ema.second.alpha is not network.second.alpha
    other.load_state_dict(network.state_dict())
    assert_same_network(other, network)
    with pytest.raises(RuntimeError, match=r"Missing key.*first\.1\.alpha"):
        network.load_state_dict(Net().state_dict())


def test_missing_layer_is_reported_without_its_alpha():
    network = built(Net)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("second.")}
    keys = nn.Sequential(network).load_state_dict(
        {f"0.{name}": value for name, value in state.items()}, strict=False
    )
    assert keys.missing_keys == ["0.second.weight"]
    state.pop("last.alpha")
    assert network.load_state_dict(state, strict=False).missing_keys == [
        "second.weight",
        "last.alpha",
    ]


@pytest.mark.parametrize("named", [False, True])
def test_alpha_joins_the_parameter_group_of_gamma(named, capsys):
    if named and torch.__version__ < "2.6":
        pytest.skip("optimizers take named parameters from torch 2.6 on")
    with replacing(Norm.derf(0.7)):
        network = Net()
        groups = {"decay": [], "rest": []}
        for name, parameter in network.named_parameters():
            entry = (name, parameter) if named else parameter
            if name.endswith("weight"):
                groups["rest" if ".1." in name or "second" in name else "decay"].append(entry)
        optimizer = torch.optim.AdamW(
            [{"params": groups["decay"]}, {"params": groups["rest"], "weight_decay": 0.0}]
        )
        network(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
    decay, rest = (group["params"] for group in optimizer.param_groups)
    assert [id(p) for p in decay] == [id(network.first[0].weight)]
    layers = (network.first[1], network.second)
    expected = [layer.weight for layer in layers]
    expected += [scalar for layer in layers for scalar in (layer.alpha, layer.shift)]
    assert [id(p) for p in rest] == [id(p) for p in expected]
    if named:
        assert optimizer.param_groups[1]["param_names"][2] == "first.1.alpha"
    assert network.second.alpha.item() != pytest.approx(0.7)
    printed = capsys.readouterr().err
    assert "4 scalars (α, s) were in no parameter group" in printed
    assert "α of 1 layers has gradients but is in no optimizer" in printed


def test_optimizer_of_all_parameters_gets_nothing_added(capsys):
    with replacing(DYT):
        network = Net()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network(torch.randn(4, 8)).sum().backward()
        optimizer.step()
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]
    assert "no parameter group" not in capsys.readouterr().err


def test_replacing_skip_by_path_and_class():
    with replacing(DYT, skip=("second", "Sequential.1")) as block:
        network = Net()
        other = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        wrapped = nn.ModuleDict({"network": network})
    assert isinstance(network.first[1], DyT)
    assert not isinstance(wrapped["network"].second, DyT)
    assert not isinstance(other[1], DyT)
    assert [k.path for n in block.networks for k in n.report.kept] == ["second", "1"]


@pytest.mark.parametrize("also", ["BatchNorm1d", "torch.nn.modules.batchnorm.BatchNorm1d"])
def test_replacing_also_by_name(also):
    def make():
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.LayerNorm(8))

    assert isinstance(built(make, also=also)[1], DyT)
    assert isinstance(built(make, also=nn.BatchNorm1d)[1], DyT)
    assert not isinstance(built(make)[1], DyT)


def test_from_pretrained_loads_norms_before_they_are_replaced(tmp_path, assert_same_network):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=16, num_attention_heads=1, **sizes)
    saved = LlamaForCausalLM(config)
    saved.save_pretrained(tmp_path)
    network = built(lambda: LlamaForCausalLM.from_pretrained(tmp_path))
    convert(saved, DYT)
    assert_same_network(network, saved)


def test_report_file_has_paths_and_functional_norms(tmp_path, capsys):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return F.layer_norm(self.net(x), (8,))  # the line that is reported

    file = tmp_path / "report.json"
    built(Functional, report_file=file)
    content = json.loads(file.read_text())
    assert [row["path"] for row in content["networks"][0]["replacements"]] == [
        "net.first.1",
        "net.second",
        "net.last",
    ]
    texts = Path(__file__).read_text().splitlines()
    (line,) = [i for i, text in enumerate(texts, 1) if text.endswith("# the line that is reported")]
    printed = capsys.readouterr().err
    assert f"DyT(α0=0.7): 3 norm layers replaced (Functional 3); paths in {file}" in printed
    assert f"a functional norm is not replaced: {__file__}:{line} (F.layer_norm)" in printed


def test_functional_call_in_a_replaced_class_is_not_reported(capsys):
    class OwnLayerNorm(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(width)), None
            self.eps = 1e-5

        def forward(self, x):
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)

    with replacing(DYT) as block:
        nn.Sequential(nn.Linear(8, 8), OwnLayerNorm(8))
    assert [r.old for r in block.replacements] == ["OwnLayerNorm"]
    assert "OwnLayerNorm" not in capsys.readouterr().err
    calls = functional_norm_lines(OwnLayerNorm)
    assert calls


def test_functional_calls_are_searched_again_after_a_change(tmp_path, monkeypatch):
    file = tmp_path / "changing.py"
    module = types.ModuleType("changing")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "changing", module)
    for count in (0, 2):
        text = "from torch.nn import functional as F\n" + "\n" * count + "F.layer_norm(1, 2)\n"
        file.write_text(text, encoding="utf-8")
        found = [call for call in functional_norm_calls([], []) if call.startswith(str(file))]
        assert found == [f"{file}:{count + 2} (F.layer_norm)"]


def functional_norm_lines(kind):
    return set(functional_norm_calls([kind], [])) - set(functional_norm_calls([kind], [kind]))


def test_torch_compile_in_a_block():
    with replacing(DYT):
        network = Net()
        x = torch.randn(2, 8)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), network(x))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: nn.Linear(8, 8), {}, "no norm layer of a network was built"),
        (lambda: nn.LayerNorm(8), {}, r"Not part of any network: 1 × LayerNorm"),
        (lambda: nn.Sequential(nn.BatchNorm1d(8)), {}, r"Left alone: 1 × BatchNorm1d; name such"),
        (Net, {"skip": "Net"}, "Kept by skip: 2 × LayerNorm, 1 × RootMeanSquareNorm"),
        (Net, {"skip": "thrid"}, "skip has 'thrid', which matches nothing in Net"),
        (Net, {"also": "BatchNorm3d"}, "also has 'BatchNorm3d', which matches nothing in Net"),
        (Net, {"norm": Norm.dyt(0.5, alpha0_at=(("x", 1),))}, "pattern 'x' sets the α0 of no"),
        (Net, {"norm": Norm.dyt("calibrated")}, "needs data, which a block does not have"),
        (Net, {"norm": "dyt"}, "is not a Norm"),
    ],
)
def test_replacing_refuses(make, options, message):
    keep = []
    with pytest.raises(ValueError, match=message), replacing(**options):
        keep.append(make())


def test_replacing_names_an_unused_option_with_every_network():
    message = (
        r"^skip has 'thrid', which matches nothing in Net, Sequential\. Correct or remove it\.$"
    )
    with pytest.raises(ReplacementError, match=message), replacing(DYT, skip="thrid"):
        keep = [Net(), nn.Sequential(nn.LayerNorm(8)), Net()]
    assert len(keep) == 3


def test_missing_shift_is_reported_with_its_layer():
    network = built(Net, Norm.derf(0.7))
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("second.")}
    assert network.load_state_dict(state, strict=False).missing_keys == ["second.weight"]


def test_replacing_refuses_at_the_first_step():
    with pytest.raises(ReplacementError, match="nothing was replaced"), replacing(DYT):
        network = nn.Linear(8, 8)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        optimizer.step()
        pytest.fail("the step came first")


def test_replacing_names_a_layer_that_cannot_be_replaced():
    class GeluNorm(nn.RMSNorm):
        def forward(self, x):
            return F.gelu(super().forward(x))

    with pytest.raises(ReplacementError, match=r"Sequential: '1' \(GeluNorm\) cannot be replaced"):
        built(lambda: nn.Sequential(nn.Linear(8, 8), GeluNorm(8)))
    network = built(lambda: nn.Sequential(nn.LayerNorm(8), GeluNorm(8)), skip="1")
    assert isinstance(network[0], DyT)
