"""Resumed runs: bit-identical to uninterrupted ones."""

import io
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch

from .problem import (
    CONFIG,
    PLAIN,
    Crash,
    CrashAt,
    Malicious,
    assert_same_run,
    counting,
    identical,
    train,
)


def flip_bit(content):
    """Flip one bit of one number in the largest tensor of a checkpoint file.

    torch loads such a file without a word: only the checksum can tell.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensors = [entry for entry in archive.infolist() if "/data/" in entry.filename]
        numbers = archive.read(max(tensors, key=lambda entry: entry.file_size))
    position = content.index(numbers) + len(numbers) // 2
    flipped = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
    one, other = (loaded_tensors(each) for each in (content, flipped))
    assert sum(not identical(one[name], other[name]) for name in one) == 1
    return flipped


def loaded_tensors(content):
    return torch.load(io.BytesIO(content), weights_only=True)["tensors"]


def crash_at(directory, step, **where):
    with pytest.raises(Crash):
        train(directory, where=where, loss=CrashAt(step))


# Checkpoints are after steps 5 and 10, lines of metrics.jsonl after 2, 3, 4, 6, …
@pytest.mark.parametrize("step", [0, 1, 4], ids=lambda step: f"in step {step + 1}")
def test_crash_before_the_first_checkpoint_restarts_from_0(tmp_path, uninterrupted, step):
    crash_at(tmp_path, step)
    assert_same_run(train(tmp_path), uninterrupted)


@pytest.mark.parametrize("step", [5, 6, 9, 10, 11], ids=lambda step: f"in step {step + 1}")
def test_resumed_run_is_bit_identical(tmp_path, uninterrupted, step):
    crash_at(tmp_path, step)
    # Other initial weights, to detect anything that the checkpoint does not restore.
    assert_same_run(train(tmp_path, weights=99), uninterrupted)


def test_run_resumed_several_times_is_bit_identical(tmp_path, uninterrupted):
    for step in (7, 2, 1):  # counted from where each attempt starts: 0, 5, 5
        crash_at(tmp_path, step)
    assert_same_run(train(tmp_path, weights=99), uninterrupted)


def test_resume_cuts_metrics_to_the_checkpoint_step(tmp_path):
    crash_at(tmp_path, 9)
    crash_at(tmp_path, 0)
    steps = [
        line.split('"step": ')[1].split(",")[0]
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == ["2", "3", "3", "4"]


def test_resume_drops_an_incomplete_last_metrics_line(tmp_path, uninterrupted):
    crash_at(tmp_path, 7)
    metrics = tmp_path / "metrics.jsonl"
    before, line, _ = metrics.read_text().partition('{"step": 6')
    metrics.write_text(before + line)
    assert_same_run(train(tmp_path), uninterrupted)


@pytest.mark.parametrize("step", [None, 6])
def test_num_workers_does_not_change_the_run(tmp_path, uninterrupted, step):
    if step is not None:
        crash_at(tmp_path, step, num_workers=2)
    assert_same_run(train(tmp_path, where={"num_workers": 2}), uninterrupted)


def test_checkpoint_steps_does_not_change_the_run(tmp_path, uninterrupted):
    assert_same_run(train(tmp_path, where={"checkpoint_steps": 1}), uninterrupted)


def test_finished_run_is_not_trained_again(tmp_path, uninterrupted):
    train(tmp_path)
    assert_same_run(train(tmp_path, loss=CrashAt(0)), uninterrupted)


def test_fp16_resumes_with_its_loss_scale(tmp_path):
    config = replace(CONFIG, precision="fp16")
    uninterrupted = train(tmp_path / "uninterrupted", config)
    with pytest.raises(Crash):
        train(tmp_path / "crashed", config, loss=CrashAt(7))
    assert_same_run(train(tmp_path / "crashed", config, weights=99), uninterrupted)
    assert uninterrupted.state["scaler"]["scale"] > 0


def test_optimizer_that_counts_its_steps_in_its_groups_resumes(tmp_path):
    uninterrupted = train(tmp_path / "uninterrupted", PLAIN, **counting())
    with pytest.raises(Crash):
        train(tmp_path / "crashed", PLAIN, loss=CrashAt(7), **counting())
    resumed = train(tmp_path / "crashed", PLAIN, **counting(seed=99))
    assert_same_run(resumed, uninterrupted)
    assert [group["steps_done"] for group in resumed.state["groups"]] == [12, 12]


def test_loop_keeps_the_last_two_checkpoints(tmp_path):
    run = train(tmp_path, where={"checkpoint_steps": 3})
    assert run.checkpoints == ["step_00000009.pt", "step_00000012.pt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"junk",
        lambda content: flip_bit(content),
    ],
    ids=["truncated", "empty", "junk", "one bit of a weight"],
)
def test_resume_skips_a_damaged_checkpoint_with_a_warning(tmp_path, uninterrupted, caplog, damage):
    crash_at(tmp_path, 11)
    newest = tmp_path / "checkpoints" / "step_00000010.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level("INFO", logger="matched"):
        run = train(tmp_path, weights=99)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert str(newest) in warnings[0] and "damaged" in warnings[0]
    assert "resumed from step 5 of 12" in caplog.text
    assert_same_run(run, uninterrupted)


def test_run_with_only_damaged_checkpoints_restarts(tmp_path, uninterrupted):
    crash_at(tmp_path, 11)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert_same_run(train(tmp_path), uninterrupted)


def test_resume_executes_no_code_from_a_checkpoint(tmp_path, uninterrupted):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"signature": Malicious(tmp_path / "saved")}, folder / "step_00000011.pt")
    (folder / "step_00000012.pt").write_bytes(
        pickle.dumps(Malicious(tmp_path / "pickled"), protocol=2)
    )
    assert_same_run(train(tmp_path / "run"), uninterrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_resume_refuses_a_checkpoint_of_another_run(tmp_path):
    crash_at(tmp_path, 7, signature="of another run")
    message = "is a checkpoint of run of another run, not of abcdef012345; move it away"
    with pytest.raises(ValueError, match=message):
        train(tmp_path)


def test_no_temporary_files_remain(tmp_path):
    crash_at(tmp_path, 7)
    train(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoints", "metrics.jsonl", "performance.jsonl", "progress.json", "fingerprint.json",
    }  # fmt: skip


def test_comparisons_of_these_tests_detect_another_seed(tmp_path, uninterrupted):
    other = train(tmp_path, replace(CONFIG, seed=4))
    assert not identical(other.state["model"], uninterrupted.state["model"])
    assert other.losses != uninterrupted.losses
    assert other.outcome.metrics != uninterrupted.outcome.metrics
