"""Released weights as a run: what is written, and weights of another architecture."""

from pathlib import Path

import pytest
import torch
from torch import nn

from matched.task import Outcome
from matched.training.released_weights import import_state, read

from .problem import context


def network(width=2):
    return nn.ModuleDict({"proj": nn.Linear(width, 1), "norm": nn.LayerNorm(width)})


def test_import_state_writes_weights_in_the_order_of_the_network(tmp_path):
    state = network().state_dict()
    other_order = dict(sorted(state.items()))
    assert list(other_order) != list(state)
    written = []
    for name, content in (("one", state), ("two", other_order)):
        place = context(tmp_path / name)
        outcome = import_state(place, network(), content, Path("release.pth"))
        weights = read(place.directory)
        assert list(weights) == list(state)
        assert all(torch.equal(weights[key], value) for key, value in state.items())
        written.append(outcome)
    (digest,) = written[0].details.values()
    assert written[0] == written[1] == Outcome(metrics={}, steps=0, details={"weights": digest})
    changed = state | {"proj.bias": state["proj.bias"] + 1}
    outcome = import_state(context(tmp_path / "three"), network(), changed, Path("release.pth"))
    assert outcome.details["weights"] != digest and len(digest) == 16


def test_import_state_refuses_another_architecture(tmp_path):
    state = network(3).state_dict() | {"head": torch.ones(1)}
    with pytest.raises(ValueError) as error:
        import_state(context(tmp_path), network(), state, Path("release.pth"))
    assert str(error.value) == (
        "release.pth is of another architecture than ModuleDict: 4 keys differ, the first: "
        "proj.weight is (1, 3) in it and (1, 2) here; norm.weight is (3,) in it and (2,) here; "
        "norm.bias is (3,) in it and (2,) here; name the weights of this network in site.toml"
    )
    assert list(tmp_path.iterdir()) == [] and read(tmp_path) is None
