"""Tests of `Norm`: defaults, equality, serialization, per-path α0, labels and validation."""

import dataclasses
import json
import math
import pickle

import pytest

from dyt import Norm


def test_norm_defaults_of_the_papers():
    assert Norm() == Norm.dyt() == Norm.dyt(0.5)
    assert (Norm().layer, Norm().squash, Norm().alpha) == ("dyt", "tanh", "learnable")
    assert (Norm.derf().squash, Norm.derf().alpha0, Norm.derf().shift0) == ("erf", 0.5, 0.0)


def test_equivalent_norms_are_equal():
    assert Norm.own() == Norm(layer="own", alpha0=0.8, squash="erf", shift0=0.1)
    assert Norm.own() == dataclasses.replace(Norm.derf(0.3, 0.1), layer="own")
    for name, norm in (("layernorm", Norm.layer_norm()), ("batchnorm", Norm.batch_norm())):
        assert norm == Norm(layer=name, alpha0=0.8, alpha0_at=(("a", 0.8),), squash="erf")
        assert norm == dataclasses.replace(Norm.dyt(0.3, alpha="absent"), layer=name)
    assert len({Norm.own(), Norm.layer_norm(), Norm.batch_norm(), Norm.dyt()}) == 4
    assert Norm.dyt(1) == Norm.dyt(1.0)
    assert type(Norm.dyt(1).alpha0) is float
    assert Norm.dyt(0.2, alpha="absent") == Norm.dyt(alpha="absent", alpha0_at=(("a", 0.8),))
    rules = (("*.attn", 0.8), ("head", 0.2))
    assert Norm(alpha0_at=[list(r) for r in rules]) == Norm(alpha0_at=dict(rules))
    assert hash(Norm(alpha0_at=[list(r) for r in rules])) == hash(Norm(alpha0_at=rules))
    assert Norm.dyt() != Norm.dyt(0.8)
    assert Norm.dyt() != Norm.derf()


def test_norm_survives_pickle_json_and_replace():
    norm = Norm.dyt(0.2, alpha0_at=(("*.input_layernorm", 0.8),))
    assert pickle.loads(pickle.dumps(norm)) == norm
    assert Norm(**json.loads(json.dumps(dataclasses.asdict(norm)))) == norm
    assert dataclasses.replace(norm, alpha0=0.3).alpha0 == 0.3
    with pytest.raises(dataclasses.FrozenInstanceError):
        norm.alpha0 = 1.0


@pytest.mark.parametrize(
    ("path", "alpha0"),
    [
        ("layers.0.attn.norm", 0.8),  # both patterns match: the first takes precedence
        ("layers.1.attn", 0.8),
        ("layers.0.mlp.norm", 0.1),  # by the parent "layers.0"
        ("layers.10.mlp.norm", 0.2),  # "layers.0" and "layers.1" are other modules
        ("norm", 0.2),
    ],
)
def test_norm_per_path_alpha0(path, alpha0):
    norm = Norm.dyt(0.2, alpha0_at=(("*.attn*", 0.8), ("layers.0", 0.1)))
    assert norm.alpha0_for(path) == alpha0


@pytest.mark.parametrize(
    ("norm", "label"),
    [
        (Norm.own(), "own"),
        (Norm.layer_norm(), "LN"),
        (Norm.batch_norm(), "BN"),
        (Norm.dyt(), "DyT(α0=0.5)"),
        (Norm.dyt(0.2, alpha0_at=(("*.attn", 0.8),)), "DyT(α0=0.2, *.attn: 0.8)"),
        (Norm.dyt(squash="hardtanh"), "DyT(hardtanh, α0=0.5)"),
        (Norm.dyt(alpha="absent"), "DyT(no α)"),
        (Norm.derf(0.5), "Derf(α0=0.5)"),
        (Norm.derf(0.5, 0.1), "Derf(α0=0.5, s0=0.1)"),
    ],
)
def test_norm_label(norm, label):
    assert str(norm) == label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layer": "ln"},
            "layer = 'ln' is unknown. Use one of 'own', 'dyt', 'layernorm', 'batchnorm'.",
        ),
        ({"squash": "relu"}, "squash = 'relu' is unknown. Use one of 'tanh', 'hardtanh',"),
        ({"squash": None}, "squash = None is unknown"),
        ({"alpha": "free"}, "alpha = 'free' is unknown. Use one of 'learnable', 'fixed'"),
        ({"alpha0": 0}, "alpha0 = 0 is not positive"),
        ({"alpha0": -0.5}, "alpha0 = -0.5 is not positive"),
        ({"alpha0": math.inf}, "alpha0 = inf is not a finite number"),
        ({"alpha0": math.nan}, "alpha0 = nan is not a finite number"),
        ({"alpha0": True}, "alpha0 = True is not a finite number"),
        ({"alpha0": "0.5"}, "alpha0 = '0.5' is not a finite number"),
        ({"layer": "own", "alpha0": -1}, "alpha0 = -1 is not positive"),
        ({"shift0": 0.3}, "shift0 = 0.3 is not supported with squash = 'tanh'"),
        ({"squash": "erf", "shift0": "0"}, "shift0 = '0' is not a finite number"),
        ({"alpha0_at": "attn"}, "alpha0_at = 'attn' is not a list of"),
        ({"alpha0_at": ("attn", 0.8)}, "alpha0_at has 'attn' where a"),
        ({"alpha0_at": ((0.8, "attn"),)}, "alpha0_at has 0.8 where a glob"),
        ({"alpha0_at": (("attn", 0),)}, r"alpha0_at\['attn'\] = 0 is not positive"),
    ],
)
def test_norm_rejects_invalid_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        Norm(**arguments)


def test_norm_uncalibrated_has_a_number_as_alpha0():
    norm = Norm.derf("calibrated", 0.1)
    assert norm.calibrated
    assert norm.uncalibrated() == Norm.derf(0.5, 0.1)
    assert not Norm.dyt(0.7).calibrated
    assert Norm.dyt(0.7).uncalibrated() == Norm.dyt(0.7)


def test_norm_fields_are_keyword_only():
    with pytest.raises(TypeError):
        Norm("dyt", 0.5)
