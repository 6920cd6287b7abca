"""A run that was cut and started again ends as if nothing had happened."""

import io
import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch

from .problem import CONFIG, Cut, CutAt, assert_same_run, same, trained


def flipped(content):
    """The same with one bit of one weight the other way round."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        weights = archive.read(largest)
    where = content.index(weights) + len(weights) // 2
    return content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :]


def cut_at(directory, step, **where):
    with pytest.raises(Cut):
        trained(directory, where=where, loss=CutAt(step))


# Checkpoints are after steps 5 and 10, lines of metrics.jsonl after 2, 3, 4, 6, …
@pytest.mark.parametrize("step", [0, 1, 4], ids=lambda step: f"in step {step + 1}")
def test_a_run_cut_before_its_first_checkpoint_starts_over(tmp_path, undisturbed, step):
    cut_at(tmp_path, step)
    assert_same_run(trained(tmp_path), undisturbed)


@pytest.mark.parametrize("step", [5, 6, 9, 10, 11], ids=lambda step: f"in step {step + 1}")
def test_a_cut_run_ends_bit_identical_to_an_undisturbed_one(tmp_path, undisturbed, step):
    cut_at(tmp_path, step)
    # Other first weights, so that whatever the checkpoint fails to restore shows.
    assert_same_run(trained(tmp_path, weights=99), undisturbed)


def test_a_run_cut_again_and_again_ends_the_same(tmp_path, undisturbed):
    for step in (7, 2, 1):  # counted from where each attempt starts: 0, 5, 5
        cut_at(tmp_path, step)
    assert_same_run(trained(tmp_path, weights=99), undisturbed)


def test_a_cut_run_keeps_no_line_from_after_the_checkpoint_it_resumes_from(tmp_path):
    cut_at(tmp_path, 9)
    cut_at(tmp_path, 0)
    steps = [
        line.split('"step": ')[1].split(",")[0]
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == ["2", "3", "3", "4"]


def test_a_half_written_last_line_of_metrics_is_dropped(tmp_path, undisturbed):
    cut_at(tmp_path, 7)
    metrics = tmp_path / "metrics.jsonl"
    before, line, _ = metrics.read_text().partition('{"step": 6')
    metrics.write_text(before + line)
    assert_same_run(trained(tmp_path), undisturbed)


@pytest.mark.parametrize("step", [None, 6])
def test_loading_in_other_processes_changes_nothing(tmp_path, undisturbed, step):
    if step is not None:
        cut_at(tmp_path, step, num_workers=2)
    assert_same_run(trained(tmp_path, where={"num_workers": 2}), undisturbed)


def test_how_often_checkpoints_are_written_changes_nothing(tmp_path, undisturbed):
    assert_same_run(trained(tmp_path, where={"checkpoint_steps": 1}), undisturbed)


def test_a_run_that_is_over_is_not_trained_again(tmp_path, undisturbed):
    trained(tmp_path)
    assert_same_run(trained(tmp_path, loss=CutAt(0)), undisturbed)


def test_fp16_resumes_with_its_loss_scale(tmp_path):
    config = replace(CONFIG, precision="fp16")
    whole = trained(tmp_path / "whole", config)
    with pytest.raises(Cut):
        trained(tmp_path / "cut", config, loss=CutAt(7))
    assert_same_run(trained(tmp_path / "cut", config, weights=99), whole)
    assert whole.state["scaler"]["scale"] > 0


def test_the_last_two_checkpoints_are_kept(tmp_path):
    run = trained(tmp_path, where={"checkpoint_steps": 3})
    assert run.checkpoints == ["step_00000009.pt", "step_00000012.pt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"junk",
        lambda content: flipped(content),
    ],
    ids=["truncated", "empty", "junk", "one bit of a weight"],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, undisturbed, caplog, damage):
    cut_at(tmp_path, 11)
    newest = tmp_path / "checkpoints" / "step_00000010.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level("INFO", logger="matched"):
        run = trained(tmp_path, weights=99)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert str(newest) in warnings[0] and "damaged" in warnings[0]
    assert "resumed from step 5 of 12" in caplog.text
    assert_same_run(run, undisturbed)


def test_a_run_whose_checkpoints_are_all_damaged_starts_over(tmp_path, undisturbed):
    cut_at(tmp_path, 11)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert_same_run(trained(tmp_path), undisturbed)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_what_a_checkpoint_smuggles_in_is_not_executed(tmp_path, undisturbed):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"signature": Malicious(tmp_path / "saved")}, folder / "step_00000011.pt")
    (folder / "step_00000012.pt").write_bytes(
        pickle.dumps(Malicious(tmp_path / "pickled"), protocol=2)
    )
    assert_same_run(trained(tmp_path / "run"), undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    cut_at(tmp_path, 7, signature="of another run")
    message = "is a checkpoint of run of another run, not of abcdef012345; move it away"
    with pytest.raises(ValueError, match=message):
        trained(tmp_path)


def test_nothing_but_whole_files_is_left(tmp_path):
    cut_at(tmp_path, 7)
    trained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoints", "metrics.jsonl", "progress.json", "fingerprint.json"}


def test_the_comparison_of_these_tests_can_fail(tmp_path, undisturbed):
    other = trained(tmp_path, replace(CONFIG, seed=4))
    assert not same(other.state["model"], undisturbed.state["model"])
    assert other.losses != undisturbed.losses
    assert other.outcome.metrics != undisturbed.outcome.metrics
