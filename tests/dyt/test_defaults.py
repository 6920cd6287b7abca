"""Defaults of the public interface: those of the papers, of torch's layers, and of the README."""

import inspect

import pytest
from torch import nn

import dyt
from dyt.norm_analysis import record_norms

NORM = {
    "layer": "dyt",
    "alpha0": 0.5,
    "alpha0_at": (),
    "squash": "tanh",
    "alpha": "learnable",
    "shift0": 0.0,
}
LAYER = {
    "alpha0": 0.5,
    "affine": True,
    "bias": True,
    "channel_axis": -1,
    "eps": None,
    "elementwise_affine": None,
    "alpha": "learnable",
    "device": None,
    "dtype": None,
}
DEFAULTS = {
    dyt.DyT: LAYER | {"squash": "tanh"},
    dyt.Derf: LAYER | {"shift0": 0.0},
    dyt.Norm: NORM,
    dyt.Norm.dyt: {"alpha0": 0.5},
    dyt.Norm.derf: {"alpha0": 0.5, "shift0": 0.0},
    dyt.convert: {
        "norm": dyt.Norm(**NORM),
        "also": (),
        "skip": (),
        "copy_affine": False,
        "calibrate": None,
        "dry_run": False,
    },
    dyt.replacing: {"norm": None, "skip": (), "also": (), "report_file": None},
    dyt.Calibration: {"inputs": "sequential", "gamma": "scale", "weights": None, "group": None},
    dyt.NormLayout: {"weight": None, "bias": None, "channel_axis": -1, "width": None},
    dyt.drop_zero_init: {"only": ("*",)},
    dyt.param_groups: {"alpha_lr": None},
    dyt.scale_embedding: {"path": None},
    dyt.suggested_alpha0: {"part": "other"},
    record_norms: {"paths": None, "positions": 64, "seed": 0},
}


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda function: function.__qualname__)
def test_defaults_of_the_public_interface(function):
    assert defaults(function) == DEFAULTS[function]


def test_batch_norm_has_the_defaults_of_torch():
    theirs = defaults(nn.BatchNorm1d)
    ours = defaults(dyt.BatchNorm)
    for name in ("eps", "momentum", "affine"):
        assert ours[name] == theirs[name]
    assert (ours["channel_axis"], ours["bias"]) == (1, True)
