"""Checkpoints: which are kept, loading of the newest undamaged one, full disks."""

import errno
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from matched.training import checkpoint

from .problem import Malicious, assert_same_run, mse, train


class TestKept:
    def write(self, folder, *steps):
        for step in steps:
            state = checkpoint.TrainingState(tensors={}, plain={})
            checkpoint.save(folder, step, state, sharded=False)
        return {path.name for path in folder.iterdir()}

    def test_save_keeps_the_last_two_files_or_folders(self, tmp_path):
        (tmp_path / "step_00000003").mkdir()
        (tmp_path / "step_00000004").mkdir()
        assert self.write(tmp_path, 5) == {"step_00000004", "step_00000005.pt"}
        assert self.write(tmp_path, 6) == {"step_00000005.pt", "step_00000006.pt"}

    def test_save_deletes_damaged_ones_of_this_or_later_steps(self, tmp_path):
        self.write(tmp_path, 3, 9)
        (tmp_path / "step_00000005").mkdir()
        assert self.write(tmp_path, 5) == {"step_00000003.pt", "step_00000005.pt"}

    def test_save_keeps_files_with_other_names(self, tmp_path):
        others = {"step_00000002.pt.old", "step_2.pt", "step_123456789.pt", "step_00000002.tmp"}
        for name in others:
            (tmp_path / name).write_bytes(b"")
        kept = self.write(tmp_path, 3, 4, 5)
        assert kept == {*others, "step_00000004.pt", "step_00000005.pt"}
        state = checkpoint.load_newest(tmp_path / "none", "", lambda name: None)
        assert state is None


class TestSaveFile:
    """save_file and load_newest_file, for trainers with their own checkpoint layout."""

    def save(self, folder, *steps):
        for step in steps:
            state = {"mine": {"of": "run"}, "weights": [torch.full((3,), float(step))]}
            checkpoint.save_file(folder, step, state)

    def load_newest(self, folder, signature="run"):
        return checkpoint.load_newest_file(folder, signature, lambda state: state["mine"]["of"])

    def test_load_newest_file_returns_what_save_file_wrote(self, tmp_path):
        assert self.load_newest(tmp_path / "none") is None
        self.save(tmp_path, 3, 12, 5)
        assert {path.name for path in tmp_path.iterdir()} == {
            "step_00000003.pt", "step_00000005.pt",
        }  # fmt: skip
        state = self.load_newest(tmp_path)
        assert state["mine"] == {"of": "run"}
        assert state["weights"][0].tolist() == [5.0] * 3

    @pytest.mark.parametrize("kept", [0, 100, 800])
    def test_load_newest_file_skips_a_truncated_file(self, tmp_path, caplog, kept):
        self.save(tmp_path, 3, 5)
        newest = tmp_path / "step_00000005.pt"
        assert newest.stat().st_size > 800
        os.truncate(newest, kept)
        with caplog.at_level("WARNING", logger="matched"):
            assert self.load_newest(tmp_path)["weights"][0].tolist() == [3.0] * 3
        (message,) = caplog.messages
        assert message.startswith(f"{newest} is damaged (")

    def test_load_newest_file_skips_a_file_without_signature(self, tmp_path, caplog):
        self.save(tmp_path, 3)
        checkpoint.save_file(tmp_path, 5, {"weights": []})
        with caplog.at_level("WARNING", logger="matched"):
            assert self.load_newest(tmp_path)["weights"][0].tolist() == [3.0] * 3
        assert "step_00000005.pt is damaged (KeyError: 'mine')" in caplog.text

    def test_load_newest_file_refuses_a_file_of_another_run(self, tmp_path):
        self.save(tmp_path, 3)
        message = "step_00000003.pt is a checkpoint of run run, not of other; move it away"
        with pytest.raises(ValueError, match=message):
            self.load_newest(tmp_path, "other")

    def test_load_newest_file_skips_what_any_process_finds_damaged(
        self, tmp_path, caplog, monkeypatch
    ):
        """All processes give the reason of the first of them, and load the same file."""
        self.save(tmp_path, 3, 5)
        reasons = iter([[None, "of rank 1", "of rank 2"], [None] * 3])
        monkeypatch.setattr(checkpoint, "all_gather_objects", lambda own: next(reasons))
        with caplog.at_level("WARNING", logger="matched"):
            assert self.load_newest(tmp_path)["weights"][0].tolist() == [3.0] * 3
        newest = tmp_path / "step_00000005.pt"
        assert caplog.messages == [f"{newest} is damaged (of rank 1); trying the previous one"]

    def test_load_newest_file_executes_no_code(self, tmp_path):
        self.save(tmp_path, 3)
        malicious = Malicious(tmp_path / "executed")
        torch.save({"mine": {"of": "run"}, "code": malicious}, tmp_path / "step_00000005.pt")
        assert self.load_newest(tmp_path)["weights"][0].tolist() == [3.0] * 3
        assert not malicious.folder.exists()


class TestLoadWeights:
    """load_weights: what later runs read from a training or from imported weights."""

    ONE, TWO, THREE = ({"weight": torch.full((1, 2), value)} for value in (1.0, 2.0, 3.0))

    def directory(self, tmp_path, **parts):
        """The directory of a run, named by its signature, with a checkpoint of these parts."""
        directory = tmp_path / "abc"
        tensors = {
            f"{part}.{n}": tensor for part, state in parts.items() for n, tensor in state.items()
        }
        content = {"tensors": tensors, "plain": {"signature": "abc"}}
        checkpoint.save_file(directory / "checkpoints", 7, content)
        return directory

    def loaded(self, directory):
        model = nn.Linear(2, 1, bias=False)
        checkpoint.load_weights(model, directory)
        return model.weight.tolist()

    def test_load_weights_prefers_imported_weights_then_the_ema(self, tmp_path):
        directory = self.directory(tmp_path, model=self.ONE)
        assert self.loaded(directory) == [[1.0, 1.0]]
        directory = self.directory(tmp_path, model=self.ONE, ema=self.TWO)
        assert self.loaded(directory) == [[2.0, 2.0]]
        torch.save({"model": self.THREE}, directory / "weights.pth")
        assert self.loaded(directory) == [[3.0, 3.0]]

    def test_load_weights_names_a_run_without_an_intact_checkpoint(self, tmp_path):
        directory = self.directory(tmp_path, model=self.ONE)
        os.truncate(directory / "checkpoints" / "step_00000007.pt", 100)
        with pytest.raises(ValueError) as error:
            self.loaded(directory)
        assert str(error.value) == f"{directory} has no intact checkpoint; run it again"

    def test_load_weights_refuses_a_checkpoint_of_another_run(self, tmp_path):
        directory = self.directory(tmp_path, model=self.ONE).rename(tmp_path / "other")
        with pytest.raises(ValueError, match="is a checkpoint of run abc, not of other"):
            self.loaded(directory)

    def test_load_weights_names_every_weight_that_does_not_fit(self, tmp_path):
        directory = self.directory(tmp_path, model={"weight": torch.ones(3), "bias": torch.ones(1)})
        with pytest.raises(ValueError) as error:
            self.loaded(directory)
        assert str(error.value) == (
            f"the checkpoint of {directory} does not fit: 2 keys differ, the first: "
            "weight is (3,) in it and (1, 2) here; bias is unknown to the model"
        )


@pytest.fixture
def small_disk(tmp_path):
    """A run directory whose checkpoints are on a disk of 256 KiB."""
    folder = tmp_path / "small" / "checkpoints"
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder.parent
    finally:
        subprocess.run(["umount", folder], check=True)


CAUSED = RuntimeError("[enforce fail]")
CAUSED.__cause__ = OSError(errno.EDQUOT, "quota")


class TestFullDisk:
    def check(self, error, folder):
        message = str(error.value)
        assert "\n" not in message
        assert f"the checkpoint step_00000010.pt could not be written to {folder}: " in message
        assert "MiB free); earlier checkpoints are intact" in message
        assert "a new submission resumes from the newest" in message
        assert [path.name for path in folder.iterdir() if "step" in path.name] == [
            "step_00000005.pt"
        ]

    @pytest.mark.parametrize("free_bytes", [0, 4096, 8192])
    def test_full_disk_is_reported_and_the_run_resumes(self, small_disk, uninterrupted, free_bytes):
        folder, filler = small_disk / "checkpoints", small_disk / "checkpoints" / "filler"
        calls = iter(range(100))

        def loss(model, batch):
            if next(calls) == 14:
                free = shutil.disk_usage(folder).free
                filler.write_bytes(b"0" * (free - free_bytes))
            return mse(model, batch)

        with pytest.raises(OSError) as error:
            train(small_disk, loss=loss)
        assert error.value.errno == errno.ENOSPC
        assert "No space left on device" in str(error.value)
        self.check(error, folder)
        filler.unlink()
        assert_same_run(train(small_disk, weights=99), uninterrupted)

    @pytest.mark.parametrize(
        "raised, number, reason",
        [
            (OSError(errno.ENOSPC, "no room"), errno.ENOSPC, "No space left on device"),
            (RuntimeError("[enforce fail]\npos"), None, "RuntimeError: [enforce fail] pos"),
            (CAUSED, errno.EDQUOT, "Disk quota exceeded"),
        ],
        ids=["system", "torch", "torch, by the system"],
    )
    def test_write_error_has_reason_free_space_and_advice(
        self, tmp_path, monkeypatch, raised, number, reason
    ):
        """The folder of the checkpoints may not exist yet."""

        def fail(content, file):
            raise raised

        def disk_usage(folder):
            assert folder.is_dir()
            return SimpleNamespace(free=3 * 2**20)

        monkeypatch.setattr(torch, "save", fail)
        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        folder = tmp_path / "run" / "checkpoints"
        with pytest.raises(OSError) as error:
            checkpoint.save_file(folder, 5, {})
        assert error.value.errno == number
        message = str(error.value) if number is None else error.value.strerror
        assert message == (
            f"the checkpoint step_00000005.pt could not be written to {folder}: {reason} "
            "(3.0 MiB free); earlier checkpoints are intact, and a new submission resumes from the "
            "newest"
        )
        assert list(folder.iterdir()) == []

    def test_torch_error_without_errno_keeps_its_message(self, tmp_path, monkeypatch):
        save, calls = torch.save, []

        def failing(content, file):
            calls.append(1)
            if len(calls) == 2:
                file.write(b"half")
                raise RuntimeError("[enforce fail at\ninline_container.cc:672] . unexpected pos")
            save(content, file)

        monkeypatch.setattr(torch, "save", failing)
        with pytest.raises(OSError, match=r"RuntimeError: \[enforce fail at inline_cont") as error:
            train(tmp_path)
        self.check(error, tmp_path / "checkpoints")
