"""Artifacts: files that one run leaves for the runs that need it."""

import argparse

import numpy as np
import pytest
import torch

from matched.lease import LeaseLostError
from matched.task import Outcome
from matched.training import artifacts
from matched.training.artifacts import (
    PRETRAINING_DIVERGED,
    TRAINING_DIVERGED,
    gather_state_dict,
    has_diverged,
    load_artifact,
    mismatch_summary,
    save_arrays,
    save_artifact,
    state_dict_mismatches,
)

from .problem import Malicious, context


def test_save_artifact_writes_what_load_artifact_reads(tmp_path):
    save_artifact(context(tmp_path), "weights.pt", {"model": {"w": torch.ones(2)}, "steps": 3})
    content = load_artifact(tmp_path / "weights.pt")
    assert content["model"]["w"].tolist() == [1.0, 1.0] and content["steps"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_save_artifact_gives_the_same_bytes_each_time(tmp_path):
    """torch.save would otherwise store the temporary name, which has the process id in it."""
    for name in ("one", "two"):
        save_artifact(context(tmp_path / name), "weights.pt", {"w": torch.ones(2)})
    one, two = ((tmp_path / name / "weights.pt").read_bytes() for name in ("one", "two"))
    assert one == two and b".tmp" not in one


def test_save_artifact_writes_nothing_after_the_lease_is_lost(tmp_path):
    def lost():
        raise LeaseLostError("taken over")

    save_artifact(context(tmp_path), "weights.pt", {"w": torch.ones(2)})
    before = (tmp_path / "weights.pt").read_bytes()
    with pytest.raises(LeaseLostError, match="taken over"):
        save_artifact(context(tmp_path, check_ownership=lost), "weights.pt", {"w": torch.zeros(2)})
    assert (tmp_path / "weights.pt").read_bytes() == before


def test_save_arrays_writes_arrays_by_name(tmp_path):
    save_arrays(context(tmp_path), "layers.npz", {"x": np.arange(3), "y": np.ones((2, 2))})
    assert [path.name for path in tmp_path.iterdir()] == ["layers.npz"]
    with np.load(tmp_path / "layers.npz") as arrays:
        content = {name: arrays[name].tolist() for name in arrays}
    assert content == {"x": [0, 1, 2], "y": [[1.0, 1.0], [1.0, 1.0]]}


def test_gather_state_dict_copies_tensors_without_their_graph():
    weight = torch.nn.Parameter(torch.ones(2))
    gathered = gather_state_dict({"w": weight})
    with torch.no_grad():
        weight.fill_(5.0)
    assert gathered["w"].tolist() == [1.0, 1.0] and not gathered["w"].requires_grad


def test_gather_state_dict_gathers_sharded_tensors(monkeypatch):
    class Sharded:
        def full_tensor(self):
            return torch.arange(4)

        def to_local(self):
            return torch.arange(2)

    monkeypatch.setattr(artifacts, "DTensor", Sharded)
    assert gather_state_dict({"w": Sharded()})["w"].tolist() == [0, 1, 2, 3]


def test_load_artifact_reads_the_arguments_of_official_releases(tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1)}, tmp_path / "release.pth")
    assert load_artifact(tmp_path / "release.pth") == {"args": argparse.Namespace(lr=0.1)}


def test_load_artifact_names_a_missing_file(tmp_path):
    with pytest.raises(ValueError) as error:
        load_artifact(tmp_path / "none.pth")
    assert str(error.value) == f"there is no checkpoint {tmp_path / 'none.pth'}"


def test_load_artifact_gives_the_first_line_of_torchs_reason(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("not a checkpoint\nC++ stack trace")

    monkeypatch.setattr(torch, "load", fail)
    file = tmp_path / "release.pth"
    torch.save({}, file)
    with pytest.raises(ValueError) as error:
        load_artifact(file)
    assert str(error.value) == f"{file} cannot be read as a torch checkpoint: not a checkpoint"


def test_load_artifact_executes_no_code(tmp_path):
    file, malicious = tmp_path / "release.pth", Malicious(tmp_path / "executed")
    torch.save({"code": malicious}, file)
    with pytest.raises(ValueError) as error:
        load_artifact(file)
    assert str(error.value) == (
        f"{file} cannot be read as a torch checkpoint: it is damaged, or contains objects other "
        "than tensors and plain values"
    )
    assert not malicious.folder.exists()


def test_load_artifact_refuses_a_pointer_of_git_lfs(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 334643268\n")
    with pytest.raises(ValueError, match=rf"^{file} is a pointer of git-lfs, not the file itself"):
        load_artifact(file)


@pytest.mark.parametrize("damage", ["truncated", "one bit of a weight"])
def test_load_artifact_refuses_a_damaged_file(tmp_path, damage):
    weight = torch.arange(1000, dtype=torch.float32)
    save_artifact(context(tmp_path), "pretrained.pth", {"model": {"w": weight}})
    file = tmp_path / "pretrained.pth"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        del content[-100:]
    else:
        content[content.index(weight.numpy().tobytes()) + 2001] ^= 1
    file.write_bytes(content)
    if damage != "truncated":  # torch itself does not notice it
        assert not torch.equal(torch.load(file, weights_only=True)["model"]["w"], weight)
    with pytest.raises(ValueError, match=rf"^{file} cannot be read as a torch checkpoint: "):
        load_artifact(file)


def test_load_artifact_reads_files_of_old_torch_without_checksums(tmp_path):
    file = tmp_path / "release.pth"
    torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    assert load_artifact(file)["w"].tolist() == [1.0, 1.0]


def test_state_dict_mismatches_names_every_key_that_does_not_fit():
    own = {"same": torch.ones(2, 3), "turned": torch.ones(2, 3), "only here": torch.ones(1)}
    loaded = {"same": torch.zeros(2, 3), "turned": torch.ones(3, 2), "only there": torch.ones(1)}
    assert state_dict_mismatches(own, loaded) == [
        "turned is (3, 2) in it and (2, 3) here",
        "only here is missing in it",
        "only there is unknown to the model",
    ]
    assert state_dict_mismatches(own, own) == []


def test_mismatch_summary_names_three():
    assert mismatch_summary(["a"]) == "1 key differs: a"
    assert mismatch_summary(["a", "b"]) == "2 keys differ, the first: a; b"
    assert mismatch_summary(["a", "b", "c", "d"]) == "4 keys differ, the first: a; b; c"


@pytest.mark.parametrize(
    ("text", "diverged"),
    [('{"outcome": "diverged"}', True), ('{"outcome": "done"}', False), (None, False)],
)
def test_has_diverged_reads_the_outcome(tmp_path, text, diverged):
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    assert has_diverged(tmp_path) == diverged


@pytest.mark.parametrize(
    ("outcome", "what"),
    [(TRAINING_DIVERGED, "training"), (PRETRAINING_DIVERGED, "pretraining")],
)
def test_run_of_a_diverged_training_has_diverged_itself(outcome, what):
    """Without a metric that a table could show."""
    assert outcome == Outcome(
        metrics={}, diverged=True, steps=0, details={"reason": f"the {what} diverged"}
    )
