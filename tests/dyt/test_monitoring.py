"""Monitoring: α and s of the layers of a network by path."""

import pytest
import torch
from torch import nn

import dyt
from dyt import Derf, DyT, DyTLinear


def network():
    return nn.Sequential(
        DyT(4, alpha0=0.25),
        nn.LayerNorm(4),
        nn.ModuleDict({"out": Derf(4, alpha0=2.0, shift0=0.5)}),
        DyT(4, alpha="absent"),
        DyTLinear(DyT(4, alpha0=1.0), nn.Linear(4, 2)),
    )


def test_alphas_has_alpha_and_shift_of_each_layer_by_path():
    expected = {"0": 0.25, "2.out": 2.0, "2.out.shift": 0.5, "4.norm": 1.0}
    assert dyt.alphas(network()) == expected
    assert list(dyt.alphas(network())) == list(expected)


def test_alphas_has_the_current_values_as_numbers():
    model = network().to(torch.bfloat16)
    with torch.no_grad():
        model[0].alpha.fill_(-3.0)
    alphas = dyt.alphas(model)
    assert alphas["0"] == -3.0
    assert {type(value) for value in alphas.values()} == {float}


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.LayerNorm(2))])
def test_alphas_is_empty_without_dyt_layers(model):
    assert dyt.alphas(model) == {}
