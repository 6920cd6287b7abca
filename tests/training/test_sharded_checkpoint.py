"""Sharded checkpoints: resumption on any number of processes, damage, untrusted content."""

import copyreg
import errno
import io
import os
import pickle
import re
import shutil
import traceback
import warnings
import zipfile

import pytest
import torch
from torch.distributed.checkpoint import metadata as dcp

from matched.training import checkpoint, sharded_checkpoint
from matched.training.checkpoint import TrainingState

from .problem import SIGNATURE, Malicious, TrainedRun, assert_close_runs, identical, train

TEMPORARY = f".step_00000005.{os.getpid()}.tmp"


def log_of(folder, name, rank=0):
    return (folder / "logs" / f"{name}-{rank}.txt").read_text()


def test_sharded_checkpoint_has_one_file_per_process(two_processes):
    run = TrainedRun(directory=two_processes / "sharded")
    assert run.checkpoints == ["step_00000010", "step_00000012"]
    for path in (run.directory / "checkpoints").iterdir():
        assert {file.name for file in path.iterdir()} == {
            ".metadata", "__0_0.distcp", "__1_0.distcp", "rest.pt",
        }  # fmt: skip


class TestResume:
    @pytest.mark.parametrize("prefix", ["sharded", "sharded-async"])
    def test_two_processes_resume_bit_identical(self, two_processes, resumed, prefix):
        crashed = TrainedRun(directory=two_processes / f"{prefix}-crashed")
        assert crashed.checkpoints == ["step_00000005"]
        run = TrainedRun(directory=resumed / f"{prefix}-crashed")
        uninterrupted = TrainedRun(directory=two_processes / "sharded")
        assert run.lines == uninterrupted.lines
        assert run.json("fingerprint.json") == uninterrupted.json("fingerprint.json")
        assert identical(run.state, uninterrupted.state)

    @pytest.mark.parametrize("name", ["crashed", "sharded-crashed"])
    def test_one_process_resumes_a_run_of_two(self, two_processes, tmp_path, uninterrupted, name):
        shutil.copytree(two_processes / name, tmp_path / "run")
        run = train(tmp_path / "run", weights=99)
        assert run.checkpoints == ["step_00000010.pt", "step_00000012.pt"]
        assert_close_runs(run, uninterrupted)

    def test_two_processes_resume_a_run_of_one(self, resumed, uninterrupted):
        sharded = TrainedRun(directory=resumed / "sharded-from-file")
        assert sharded.checkpoints == ["step_00000010", "step_00000012"]
        assert_close_runs(sharded, uninterrupted)

    def test_checkpoint_damaged_for_one_process_is_skipped_by_all(self, two_processes, resumed):
        for rank in range(2):
            log = log_of(resumed, "sharded-damaged", rank)
            assert log.count("is damaged") == log.count("step_00000012 is damaged (") == 1
            assert "resumed from step 10 of 12" in log
        run = TrainedRun(directory=resumed / "sharded-damaged")
        uninterrupted = TrainedRun(directory=two_processes / "sharded")
        assert run.checkpoints == uninterrupted.checkpoints
        assert identical(run.state, uninterrupted.state)

    def test_all_processes_refuse_a_checkpoint_of_another_run(
        self, resumed, two_processes, tmp_path
    ):
        for rank in range(2):
            log = log_of(resumed, "sharded-foreign", rank)
            assert "ended by ValueError" in log
            assert "is a checkpoint of run another, not of abcdef012345; move it away" in log
        shutil.copytree(two_processes / "sharded", tmp_path / "run")
        with pytest.raises(ValueError, match="step_00000012 is a checkpoint of run abcdef012345"):
            train(tmp_path / "run", where={"signature": "another"})

    @pytest.mark.parametrize("name", ["sharded-full", "sharded-async-full"])
    def test_full_disk_ends_all_processes_and_the_run_resumes(self, two_processes, resumed, name):
        run = TrainedRun(directory=two_processes / name)
        for rank in range(2):
            lines = log_of(two_processes, name, rank).splitlines()
            assert lines[-1].startswith(
                f"ended by OSError: [Errno {errno.ENOSPC}] the checkpoint step_00000010 could not "
                f"be written to {run.directory / 'checkpoints'}: No space left on device ("
            )
        assert run.checkpoints == ["step_00000005"]
        run = TrainedRun(directory=resumed / name)
        assert identical(run.state, TrainedRun(directory=two_processes / "sharded").state)


class TestBackgroundWriter:
    """Checkpoints that a thread writes."""

    @pytest.mark.parametrize("name", ["sharded-async", "sharded-async-changed"])
    def test_async_checkpoints_equal_synchronous_ones(self, two_processes, name):
        """Also if the weights change while they are written."""
        run, expected = (TrainedRun(directory=two_processes / n) for n in (name, "sharded"))
        assert run.checkpoints == expected.checkpoints == ["step_00000010", "step_00000012"]
        for step in run.checkpoints:
            states = (checkpoint.read(r.directory / "checkpoints" / step) for r in (run, expected))
            one, other = ({"t": state.tensors, "p": state.plain} for state in states)
            assert identical(one, other)
        assert run.lines == expected.lines

    def test_preempted_run_waits_for_its_checkpoint(self, two_processes, resumed):
        runs = (
            TrainedRun(directory=two_processes / f"{prefix}-preempted")
            for prefix in ("sharded", "sharded-async")
        )
        one, other = (run.checkpoints for run in runs)
        assert one == other
        run = TrainedRun(directory=resumed / "sharded-async-preempted")
        assert identical(run.state, TrainedRun(directory=two_processes / "sharded").state)

    def test_checkpoint_of_a_lost_run_is_not_completed(self, two_processes):
        run = TrainedRun(directory=two_processes / "sharded-async-lost")
        assert run.checkpoints == []
        assert not list((run.directory / "checkpoints").iterdir())
        for rank in range(2):
            log = log_of(two_processes, "sharded-async-lost", rank)
            assert "ended by LeaseLostError: another process is at work" in log


def test_sharded_checkpoint_is_renamed_when_it_is_on_disk(tmp_path, disk_events):
    state = TrainingState(tensors={"model.weight": torch.ones(3)}, plain={"signature": "run"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        checkpoint.save(tmp_path / "checkpoints", 5, state, sharded=True)
    (rename,) = (event for event in disk_events if event[1:] == (TEMPORARY, "step_00000005"))
    before, after = (
        disk_events[: disk_events.index(rename)],
        disk_events[disk_events.index(rename) + 1 :],
    )
    synced = [name for kind, name, _ in before if kind == "sync"]
    assert "__0_0.distcp" in synced
    assert synced[-2:] == ["rest.pt", TEMPORARY], "the folder is synced when it is complete"
    assert after == [("sync", "checkpoints", None)]
    sizes = {name: size for kind, name, size in before if kind == "sync"}
    for name in ("rest.pt", "__0_0.distcp"):
        assert sizes[name] == (tmp_path / "checkpoints/step_00000005" / name).stat().st_size


def test_sharded_checkpoint_keeps_every_dtype_and_shape(tmp_path):
    tensors = {
        "model.bf16": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
        "model.count": torch.tensor(7),
        "model.mask": torch.tensor([True, False]),
        "optimizer.weight.step": torch.tensor(3.0),
    }
    state = TrainingState(tensors=tensors, plain={"signature": "run", "position": {"step": 5}})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        checkpoint.save(tmp_path, 5, state, sharded=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoint.read(tmp_path / "step_00000005")
    assert identical(found.tensors, tensors) and found.plain == state.plain


def test_failed_sharded_checkpoint_leaves_no_temporary_folder(tmp_path, monkeypatch):
    leftover = tmp_path / TEMPORARY
    leftover.mkdir()
    (leftover / "of a killed process").touch()

    def fail(folder, state):
        assert {path.name for path in folder.iterdir()} == {".metadata", "__0_0.distcp"}
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sharded_checkpoint, "write_plain_values", fail)
    state = TrainingState(tensors={"model.weight": torch.ones(3)}, plain={"signature": "run"})
    with warnings.catch_warnings(), pytest.raises(OSError, match="No space left on device"):
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        checkpoint.save(tmp_path, 5, state, sharded=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", ["cause", "context"])
def test_root_cause_is_the_system_error_behind_others(link):
    system = OSError(errno.ENOSPC, "No space left on device")
    bare = OSError("in words only")
    outer = RuntimeError("torch's words")
    for error, inner in ((outer, bare), (bare, system)):
        setattr(error, f"__{link}__", inner)
    assert sharded_checkpoint.root_cause(outer) is system
    assert sharded_checkpoint.root_cause(system) is system
    alone = RuntimeError("torch's words")
    assert sharded_checkpoint.root_cause(alone) is alone


def edited(change):
    """Damage of a folder: changed metadata."""

    def damage(folder, malicious):
        path = folder / ".metadata"
        metadata = pickle.loads(path.read_bytes())
        change(metadata, malicious)
        path.write_bytes(pickle.dumps(metadata))

    return damage


def first_tensor(metadata):
    return next(iter(metadata.state_dict_metadata))


def not_a_tensor(metadata, malicious):
    metadata.state_dict_metadata[first_tensor(metadata)] = dcp.BytesStorageMetadata()


def another_folder(metadata, malicious):
    for storage in metadata.storage_data.values():
        storage.relative_path = f"../step_00000012/{storage.relative_path}"


def transformed(metadata, malicious):
    for storage in metadata.storage_data.values():
        storage.transform_descriptors = ["stream.zstd"]


def replaced(name, content):
    return lambda folder, malicious: (folder / name).write_bytes(content(malicious))


def malicious_plain_values(folder, malicious):
    torch.save({"signature": malicious}, folder / "rest.pt")


def malicious_tensors(folder, malicious):
    """Each part of a file is a complete file of torch.save; the old format is a bare pickle."""
    path = folder / "__0_0.distcp"
    payload = pickle.dumps(malicious, protocol=2)
    path.write_bytes(payload.ljust(path.stat().st_size, b"\0"))


def malicious_archives(folder, malicious):
    archive, path = io.BytesIO(), folder / "__0_0.distcp"
    torch.save(malicious, archive)
    with path.open("r+b") as file:
        for part in parts(folder, path.name):
            file.seek(part.offset)
            file.write(archive.getvalue().ljust(part.length, b"\0"))


def flip_bit(name):
    """Damage of a folder: one bit of the largest part, or of the plain values."""

    def damage(folder, malicious):
        path, content = folder / name, bytearray((folder / name).read_bytes())
        plain = name == "rest.pt"
        content[content.index(SIGNATURE.encode()) if plain else number_in(folder, name)] ^= 1
        path.write_bytes(content)

    return damage


def parts(folder, name):
    """Where the tensors of a file are."""
    storages = pickle.loads((folder / ".metadata").read_bytes()).storage_data.values()
    return [storage for storage in storages if storage.relative_path == name]


def number_in(folder, name):
    """The offset of a number in the largest tensor of a file."""
    part = max(parts(folder, name), key=lambda part: part.length)
    content = (folder / name).read_bytes()[part.offset :][: part.length]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
        return part.offset + content.index(archive.read(entry)) + entry.file_size // 2


def truncated(folder, malicious):
    path = folder / "__1_0.distcp"
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {
    "metadata is code": (
        replaced(".metadata", pickle.dumps),
        "it refers to posix.mkdir",
    ),
    "code in metadata": (
        edited(lambda metadata, malicious: setattr(metadata, "planner_data", malicious)),
        "it refers to posix.mkdir",
    ),
    "no tensor": (
        edited(not_a_tensor),
        "it refers to torch.distributed.checkpoint.metadata.Byt",
    ),
    "number for a tensor": (
        edited(lambda metadata, malicious: metadata.state_dict_metadata.update(it=3)),
        "it is not a tensor but int",
    ),
    "metadata is a number": (
        replaced(".metadata", lambda malicious: pickle.dumps(3)),
        "its metadata is of type int",
    ),
    "another folder": (edited(another_folder), "outside of the folder"),
    "transformed": (edited(transformed), r"is transformed by \['stream.zstd'\]"),
    "parts not listed": (
        edited(
            lambda metadata, malicious: metadata.state_dict_metadata[
                first_tensor(metadata)
            ].chunks.pop()
        ),
        "parts of .* are missing",
    ),
    "no storage of parts": (
        edited(lambda metadata, malicious: metadata.storage_data.clear()),
        "KeyError",
    ),
    "tensors are code": (malicious_tensors, "File is not a zip file"),
    "tensors are code in an archive": (malicious_archives, "UnpicklingError"),
    "plain values are code": (malicious_plain_values, "UnpicklingError"),
    "truncated": (truncated, "Error|File is not a zip file"),
    "one bit of a weight": (flip_bit("__0_0.distcp"), "the checksum of .* in it is wrong"),
    "one bit of a plain value": (flip_bit("rest.pt"), "the checksum of .* in it is wrong"),
    "missing file of a process": (
        lambda folder, malicious: (folder / "__1_0.distcp").unlink(),
        "__1_0",
    ),
    "missing metadata": (
        lambda folder, malicious: (folder / ".metadata").unlink(),
        "FileNotFoundError",
    ),
    "missing plain values": (
        lambda folder, malicious: (folder / "rest.pt").unlink(),
        "FileNotFoundError",
    ),
    "empty": (replaced(".metadata", lambda malicious: b""), "EOFError"),
}


@pytest.mark.parametrize("damage, message", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_sharded_checkpoint_is_skipped_without_executing_code(
    two_processes, tmp_path, caplog, damage, message
):
    run = TrainedRun(directory=shutil.copytree(two_processes / "sharded", tmp_path / "run"))
    damage(run.newest, Malicious(tmp_path / "executed"))
    with caplog.at_level("INFO", logger="matched"):
        resumed = train(run.directory, weights=99)
    assert not (tmp_path / "executed").exists()
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert re.search(f"step_00000012 is damaged .*{message}", warnings[0])
    assert "resumed from step 10 of 12" in caplog.messages
    uninterrupted = TrainedRun(directory=two_processes / "sharded")
    assert resumed.losses == pytest.approx(uninterrupted.losses, rel=1e-4)
    assert resumed.checkpoints == ["step_00000010", "step_00000012.pt"]


def test_malicious_object_is_executed_by_plain_unpickling(tmp_path):
    """The damages above would be noticed if they were executed."""
    pickle.loads(pickle.dumps(Malicious(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_tracebacks_are_sent_without_their_code():
    """Code objects, which frames have in Python 3.14, cannot be pickled."""
    (frame,) = traceback.extract_stack(limit=1)
    reduced = copyreg.dispatch_table[traceback.FrameSummary](frame)
    name = "test_tracebacks_are_sent_without_their_code"
    assert reduced == (traceback.FrameSummary, (__file__, frame.lineno, name))
    assert pickle.loads(pickle.dumps(frame)) == frame
