"""Fingerprints: equal for both arms of a matched pair, different otherwise."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dyt import DynamicTanh
from matched.training import fingerprint as fingerprint_module
from matched.training import weights_digest
from matched.training.fingerprint import batch_digest, digest_of, divided_weights_digest

from .problem import CONFIG, DYT, FEATURES, Points, learner, mixup, train


def fingerprint(directory, config=CONFIG, **changes):
    return train(directory, config, **changes).json("fingerprint.json")


@pytest.fixture(scope="module")
def own(uninterrupted):
    return uninterrupted.json("fingerprint.json")


def test_fingerprint_is_equal_for_both_arms(tmp_path, own):
    run = train(tmp_path, norm=DYT)
    assert "1.alpha" in run.state["model"]
    assert run.json("fingerprint.json") == own


def test_fingerprint_has_weights_and_four_steps_of_batches(own):
    assert set(own) == {"weights", "batches"}
    assert len(own["weights"]) == 16
    assert len(own["batches"]) == len(set(own["batches"])) == 4


def test_other_initial_weights_change_only_the_weights_hash(tmp_path, own):
    other = fingerprint(tmp_path, weights=99)
    assert other["weights"] != own["weights"]
    assert other["batches"] == own["batches"]


def other_mixup(batch):
    """Draw a number before mixup does."""
    torch.rand(1)
    return mixup((batch[0].flip(0), batch[1]))


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": Points(noise=0.2)},
        {"prepare": lambda batch: batch},
        {"prepare": other_mixup},
        {"config": replace(CONFIG, micro_batch=8)},
    ],
    ids=["augmentation", "without mixup", "other mixup", "micro-batch"],
)
def test_other_batches_change_only_the_batch_hashes(tmp_path, own, changes):
    other = fingerprint(tmp_path, **changes)
    assert other["weights"] == own["weights"]
    assert all(a != b for a, b in zip(other["batches"], own["batches"], strict=True))


def test_changed_labels_change_the_batch_hashes(tmp_path, own):
    points = Points()
    points.y = points.y + 1e-3
    assert fingerprint(tmp_path, dataset=points)["batches"] != own["batches"]


def test_dropout_rate_does_not_change_the_fingerprint(tmp_path, own):
    assert fingerprint(tmp_path, dropout=0.0) == own


class TestWeightsDigest:
    def digest(self, norms=("norm1",), inherited=(), **changes):
        torch.manual_seed(0)
        model = nn.ModuleDict(
            {
                "norm1": nn.LayerNorm(FEATURES),
                "norm10": nn.LayerNorm(FEATURES),
                "proj": nn.Linear(FEATURES, 2),
            }
        )
        for name, change in changes.items():
            change(model[name])
        return weights_digest(model, norms, inherited)

    def test_weights_digest_leaves_out_inherited_weights(self):
        change = {"proj": lambda proj: proj.weight.data.fill_(3)}
        assert self.digest(inherited=["proj.weight"], **change) == self.digest(
            inherited=["proj.weight"]
        )
        assert self.digest(inherited=["proj.bias"], **change) != self.digest(
            inherited=["proj.bias"]
        )

    def test_weights_digest_leaves_out_norm_layers(self):
        assert self.digest() == self.digest(norm1=lambda norm: norm.weight.data.fill_(3))

        one = nn.ModuleDict({"norm1": nn.LayerNorm(FEATURES)})
        two = nn.ModuleDict({"norm1": DynamicTanh(FEATURES)})
        assert weights_digest(one, ["norm1"]) == weights_digest(two, ["norm1"])
        assert weights_digest(one, []) != weights_digest(two, [])

    def test_weights_digest_depends_on_names_and_not_on_their_order(self):
        one, two = nn.Linear(2, 2), nn.Linear(2, 2)
        digests = [
            weights_digest(nn.ModuleDict(modules), [])
            for modules in ({"a": one, "b": two}, {"b": two, "a": one}, {"a": one, "c": two})
        ]
        assert digests[0] == digests[1] != digests[2]

    def test_weights_digest_matches_norm_paths_exactly(self):
        change = {"norm10": lambda norm: norm.weight.data.fill_(3)}
        assert self.digest() != self.digest(**change)
        assert self.digest(["norm1", "norm10"]) == self.digest(["norm1", "norm10"], **change)

    @pytest.mark.parametrize(
        "change",
        [
            lambda proj: proj.weight.data[0, 0].add_(1e-6),
            lambda proj: proj.bias.data[1].neg_(),
            lambda proj: proj.double(),
            lambda proj: setattr(proj, "weight", nn.Parameter(proj.weight.data.view(6, 2))),
            lambda proj: proj.register_buffer("scale", torch.ones(1)),
        ],
        ids=["one bit", "sign", "dtype", "shape", "buffer"],
    )
    def test_weights_digest_detects_changes_outside_norm_layers(self, change):
        assert self.digest() != self.digest(proj=change)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
    def test_weights_digest_is_reproducible_in_every_dtype(self, dtype):
        one, two = (self.digest(proj=lambda proj: proj.to(dtype)) for _ in range(2))
        assert one == two != self.digest()


class TestDividedWeightsDigest:
    def digest(self, model, norms=("1",)):
        return divided_weights_digest(model, norms)

    def test_divided_digest_leaves_norms_and_named_parameters_out(self):
        model, other = learner().model, learner(norm=DYT).model
        assert self.digest(model) == self.digest(other)
        other.register_parameter("scale", nn.Parameter(torch.ones(1)))
        assert self.digest(other) != self.digest(model)
        assert self.digest(other, ("1", "scale")) == self.digest(model)

    def test_divided_digest_depends_on_every_weight_and_on_its_row(self):
        digests = {self.digest(learner().model)}
        for name in ("0.weight", "0.bias", "4.weight", "4.bias"):
            model = learner().model
            with torch.no_grad():
                model.get_parameter(name).view(-1)[0] += 1e-6
            digests.add(self.digest(model))
        model = learner().model
        with torch.no_grad():
            weight = model.get_parameter("0.weight")
            weight[[0, 1]] = weight[[1, 0]]
        assert len(digests | {self.digest(model)}) == 6

    def test_divided_digest_adds_each_row_once(self, monkeypatch):
        """Parts of a weight's rows from several processes, of which two have the same rows."""
        model = nn.Linear(2, 4, bias=False)
        parts = [{"weight": (0, 5)}, {"weight": (2, 2**64 - 1)}]
        digests = []
        for gathered in (parts, [*parts, parts[0]], parts[::-1], parts[:1]):
            monkeypatch.setattr(fingerprint_module, "all_gather_objects", lambda _, v=gathered: v)
            digests.append(divided_weights_digest(model, []))
        assert digests[0] == digests[1] == digests[2] != digests[3]

    def test_divided_digest_of_an_empty_weight(self):
        model = nn.Module()
        model.register_buffer("empty", torch.empty(0, 3))
        digest = divided_weights_digest(model, [])
        model.register_buffer("empty", torch.empty(0, 4))
        assert divided_weights_digest(model, []) != digest


def test_digest_of_depends_on_the_order_and_the_parts():
    digests = [("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""), ("a",)]
    assert len({digest_of(each) for each in digests}) == len(digests)


def test_batch_digest_depends_on_shapes_dtypes_and_all_tensors():
    x, y = torch.arange(6.0), torch.arange(3)
    batches = [
        [x, y],
        [x.view(2, 3), y],
        [x.view(torch.int32), y],
        [x, y + 1],
        [x],
        {"x": x, "y": y, "z": y},
        {"x": x, "y": (y, y + 1)},
    ]
    assert len({batch_digest(batch) for batch in batches}) == len(batches)
    assert batch_digest({"x": x, "y": y}) == batch_digest({"y": y, "x": x}) == batch_digest((x, y))


def test_digests_are_pinned():
    """A run that is resumed, or compared with its pair, by another version has the same digests."""
    model = nn.ModuleDict({"norm": nn.LayerNorm(2), "proj": nn.Linear(2, 2, bias=False)})
    model.register_parameter("token", nn.Parameter(torch.tensor(0.5)))
    with torch.no_grad():
        model["proj"].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    batch = {"y": torch.tensor([1, 2]), "x": (torch.ones(2, 2), [torch.zeros(1)])}
    assert {
        "weights": weights_digest(model, ["norm"]),
        "divided": divided_weights_digest(model, ["norm"]),
        "batch": batch_digest(batch),
        "several": digest_of(["a", "b"]),
    } == {
        "weights": "511083b44398b00b",
        "divided": "7fdd453b3e996acf",
        "batch": "d23b37160d472f9b",
        "several": "d44362d67d921091",
    }


def test_digests_do_not_see_parametrizations():
    plain, reparametrized = nn.Linear(2, 2), nn.Linear(2, 2)
    reparametrized.load_state_dict(plain.state_dict())
    nn.utils.parametrize.register_parametrization(reparametrized, "weight", nn.Identity())
    assert "parametrizations.weight.original" in reparametrized.state_dict()
    for digest in (weights_digest, divided_weights_digest):
        nested = [nn.ModuleDict({"proj": module}) for module in (plain, reparametrized)]
        assert digest(nested[0], []) == digest(nested[1], [])
        names = ["proj.parametrizations.weight.original"]
        assert digest(nested[1], [], names) == digest(nested[0], [], ["proj.weight"])
