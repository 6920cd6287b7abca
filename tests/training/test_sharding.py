"""A model of which each process holds a part learns what one learns that is whole."""

import pytest
import torch
from torch import nn

from matched.training import sharding

from .problem import Trained, grouped, learner, network


@pytest.mark.parametrize("kind, whole", [("", "own-0"), ("-dyt", "dyt-0"), ("-scaled", "scaled")])
def test_it_is_the_same_run(pair, kind, whole):
    """With clipped gradients, an average that is evaluated, dropout, mixup, groups of parameters.

    DyT's α is one number, of which one process has all and the other nothing.
    """
    sharded, whole = Trained(directory=pair / f"sharded{kind}"), Trained(directory=pair / whole)
    assert sharded.json("fingerprint.json") == whole.json("fingerprint.json")
    assert sharded.losses == pytest.approx(whole.losses, rel=1e-5)
    assert sharded.lines[-1]["evaluation"] == pytest.approx(whole.lines[-1]["evaluation"], rel=1e-5)
    one, other = sharded.state, whole.state
    for part in ("model", "ema", "optimizer"):
        assert one[part].keys() == other[part].keys() and one[part]
        for name, tensor in one[part].items():
            torch.testing.assert_close(tensor, other[part][name], rtol=1e-4, atol=1e-6)
    assert one["groups"] == other["groups"]


def test_it_is_the_run_of_one_process_that_accumulates(pair, undisturbed):
    sharded = Trained(directory=pair / "sharded")
    assert sharded.losses == pytest.approx(undisturbed.losses, rel=1e-4)
    assert sharded.json("fingerprint.json") == undisturbed.json("fingerprint.json")


def test_with_fp16_all_processes_skip_the_step_that_overflows_on_one(pair):
    sharded, whole = Trained(directory=pair / "sharded-fp16"), Trained(directory=pair / "fp16")
    assert sharded.state["scaler"] == whole.state["scaler"]
    assert whole.state["scaler"]["scale"] < 2**16
    assert sharded.losses == pytest.approx(whole.losses, rel=1e-2)
    for steps in (run.state["optimizer"]["0.weight.step"] for run in (sharded, whole)):
        assert 0 < steps < 12


def test_a_batch_norm_is_refused(pair):
    for rank in range(2):
        said = (pair / "said" / f"sharded-normed-{rank}.txt").read_text()
        assert "ended by ValueError: 1 is a batch norm, whose running statistics would" in said


def test_an_average_of_a_number_that_is_no_parameter_is_refused():
    model = network()
    model.register_buffer("mean", torch.zeros(3))
    with pytest.raises(ValueError, match="the model keeps mean, which is no parameter"):
        sharding.shard(learner(**grouped(model)), torch.device("cpu"))


def test_an_optimizer_over_other_parameters_is_refused():
    strange = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"not the model's, of shapes \[\(3, 2\), \(3,\)\]"):
        learner(optimizer=strange).parameter_names()


class TestUnits:
    def block(self):
        return nn.ModuleDict({"proj": nn.Linear(2, 2), "mlp": network()})

    def names(self, model):
        paths = {module: path for path, module in model.named_modules()}
        return [paths[unit] for unit in sharding.units(model)]

    def test_blocks_of_a_transformer_and_not_what_is_in_them(self):
        blocks = nn.Sequential(*[self.block() for _ in range(3)])
        model = nn.ModuleDict({"stem": nn.Conv2d(3, 2, 1), "blocks": blocks, "head": network()[:2]})
        assert self.names(model) == ["blocks.0", "blocks.1", "blocks.2"]

    def test_blocks_of_an_encoder_and_of_a_decoder(self):
        lists = [nn.ModuleList([self.block() for _ in range(2)]) for _ in range(2)]
        model = nn.ModuleDict({"encoder": lists[0], "decoder": nn.ModuleDict({"layers": lists[1]})})
        expected = ["encoder.0", "encoder.1", "decoder.layers.0", "decoder.layers.1"]
        assert self.names(model) == expected

    def test_lists_of_lists(self):
        lists = nn.ModuleList([nn.ModuleList([self.block() for _ in range(2)]) for _ in range(2)])
        assert self.names(nn.ModuleDict({"stages": lists})) == [
            "stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1",
        ]  # fmt: skip

    def test_what_has_no_parameters_is_no_unit(self):
        assert self.names(network()) == ["0", "1", "4"]
        activations = nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Linear(2, 2))
        assert self.names(activations) == []
