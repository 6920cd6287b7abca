"""Artifacts: files that one run leaves for the runs that need it."""

import pytest
import torch

from matched.lease import LeaseLostError
from matched.task import Outcome
from matched.training.artifacts import (
    PRETRAINING_DIVERGED,
    TRAINING_DIVERGED,
    has_diverged,
    load_artifact,
    save_artifact,
    state_dict_mismatches,
)

from .problem import context


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
