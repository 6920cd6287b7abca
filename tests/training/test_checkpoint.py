"""Checkpoints of either kind: whole or absent, read by any number of processes, never executed."""

import errno
import os
import pickle
import re
import shutil
import subprocess

import pytest
import torch
from torch.distributed.checkpoint import metadata as dcp

from matched.training import checkpoint
from matched.training.fingerprint import BATCHES

from .problem import Trained, assert_same_run, same, square, trained


class Executed:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def log_of(pair, name, rank=0):
    return (pair / "said" / f"{name}-{rank}.txt").read_text()


class TestFolders:
    """A folder is what processes write that have a part of the model each."""

    def test_it_holds_a_file_of_each_process_and_nothing_half_written(self, pair):
        run = Trained(directory=pair / "sharded")
        assert run.checkpoints == ["step_00000010", "step_00000012"]
        for path in (run.directory / "checkpoints").iterdir():
            assert {file.name for file in path.iterdir()} == {
                ".metadata", "__0_0.distcp", "__1_0.distcp", "rest.pt",
            }  # fmt: skip

    def test_two_processes_that_were_cut_end_bit_identical(self, pair, resumed):
        assert Trained(directory=pair / "sharded-cut").checkpoints == ["step_00000005"]
        cut, whole = Trained(directory=resumed / "sharded-cut"), Trained(directory=pair / "sharded")
        assert cut.lines == whole.lines
        assert cut.json("fingerprint.json") == whole.json("fingerprint.json")
        assert same(cut.state, whole.state)

    @pytest.mark.parametrize("kind", ["cut", "sharded-cut"])
    def test_one_process_goes_on_from_what_two_have_left(self, pair, tmp_path, undisturbed, kind):
        shutil.copytree(pair / kind, tmp_path / "run")
        alone = trained(tmp_path / "run", weights=99)
        assert alone.checkpoints == ["step_00000010.pt", "step_00000012.pt"]
        assert_close(alone, undisturbed)

    def test_two_go_on_from_what_one_has_left(self, resumed, undisturbed):
        sharded = Trained(directory=resumed / "sharded-from-file")
        assert sharded.checkpoints == ["step_00000010", "step_00000012"]
        assert_close(sharded, undisturbed)

    def test_one_that_is_damaged_on_one_process_is_passed_over_on_all(self, pair, resumed):
        for rank in range(2):
            said = log_of(resumed, "sharded-damaged", rank)
            assert said.count("is damaged") == said.count("step_00000012 is damaged (") == 1
            assert "resumed from step 10 of 12" in said
        run, whole = (Trained(directory=f) for f in (resumed / "sharded-damaged", pair / "sharded"))
        assert run.checkpoints == whole.checkpoints
        assert same(run.state, whole.state)

    def test_one_of_another_run_is_refused_on_all_processes(self, resumed, pair, tmp_path):
        for rank in range(2):
            said = log_of(resumed, "sharded-foreign", rank)
            assert "ended by ValueError" in said
            assert "is a checkpoint of run another, not of abcdef012345; move it away" in said
        shutil.copytree(pair / "sharded", tmp_path / "run")
        with pytest.raises(ValueError, match="step_00000012 is a checkpoint of run abcdef012345"):
            trained(tmp_path / "run", where={"signature": "another"})

    def test_a_full_disk_ends_all_processes_and_a_new_submission_goes_on(self, pair, resumed):
        for rank in range(2):
            said = log_of(pair, "sharded-full", rank).splitlines()
            assert said[-1].startswith(
                f"ended by OSError: [Errno {errno.ENOSPC}] the checkpoint step_00000010 could not "
                f"be written to {pair / 'sharded-full' / 'checkpoints'}: No space left on device ("
            )
        assert Trained(directory=pair / "sharded-full").checkpoints == ["step_00000005"]
        again, whole = (Trained(directory=f) for f in (resumed / "sharded-full", pair / "sharded"))
        assert same(again.state, whole.state)


def assert_close(one, other):
    assert one.losses == pytest.approx(other.losses, rel=1e-4)
    assert one.json("fingerprint.json") == other.json("fingerprint.json")
    first, second = one.state, other.state
    for part in ("model", "ema", "optimizer"):
        assert first[part].keys() == second[part].keys()
        for name, tensor in first[part].items():
            torch.testing.assert_close(tensor, second[part][name], rtol=1e-3, atol=1e-4)


def edited(change):
    """Damage of a folder: its description with something else in it."""

    def damage(folder, trap):
        path = folder / ".metadata"
        found = pickle.loads(path.read_bytes())
        change(found, trap)
        path.write_bytes(pickle.dumps(found))

    return damage


def first_of(found):
    return next(iter(found.state_dict_metadata))


def no_tensor(found, trap):
    found.state_dict_metadata[first_of(found)] = dcp.BytesStorageMetadata()


def elsewhere(found, trap):
    for place in found.storage_data.values():
        place.relative_path = f"../step_00000012/{place.relative_path}"


def transformed(found, trap):
    for place in found.storage_data.values():
        place.transform_descriptors = ["stream.zstd"]


def replaced(name, content):
    return lambda folder, trap: (folder / name).write_bytes(content(trap))


def saved(folder, trap):
    torch.save({"signature": trap}, folder / "rest.pt")


def pickled_tensors(folder, trap):
    """Every piece of a file is a whole file of torch.save; an old one is a bare pickle."""
    path = folder / "__0_0.distcp"
    payload = pickle.dumps(trap, protocol=2)
    path.write_bytes(payload.ljust(path.stat().st_size, b"\0"))


def truncated(folder, trap):
    path = folder / "__1_0.distcp"
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {
    "description is code": (replaced(".metadata", pickle.dumps), "Refused: it wants posix.mkdir"),
    "code in it": (
        edited(lambda found, trap: setattr(found, "planner_data", trap)),
        "Refused: it wants posix.mkdir",
    ),
    "no tensor": (edited(no_tensor), "Refused: it wants torch.distributed.checkpoint.metadata.Byt"),
    "number for a tensor": (
        edited(lambda found, trap: found.state_dict_metadata.update(it=3)),
        "Refused: it is no tensor but a int",
    ),
    "no description": (replaced(".metadata", lambda trap: pickle.dumps(3)), "Refused: it holds a "),
    "files elsewhere": (edited(elsewhere), "outside of the folder"),
    "transformed": (edited(transformed), r"is transformed by \['stream.zstd'\]"),
    "pieces not listed": (
        edited(lambda found, trap: found.state_dict_metadata[first_of(found)].chunks.pop()),
        "there are not all pieces of",
    ),
    "pieces nowhere": (edited(lambda found, trap: found.storage_data.clear()), "KeyError"),
    "tensors are code": (pickled_tensors, "Error"),
    "rest is code": (saved, "UnpicklingError"),
    "truncated": (truncated, "Error"),
    "no file of a process": (lambda folder, trap: (folder / "__1_0.distcp").unlink(), "__1_0"),
    "none described": (lambda folder, trap: (folder / ".metadata").unlink(), "FileNotFoundError"),
    "no rest": (lambda folder, trap: (folder / "rest.pt").unlink(), "FileNotFoundError"),
    "empty": (replaced(".metadata", lambda trap: b""), "EOFError"),
}


@pytest.mark.parametrize("damage, says", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_passed_over_and_nothing_in_it_is_executed(
    pair, tmp_path, caplog, damage, says
):
    run = Trained(directory=shutil.copytree(pair / "sharded", tmp_path / "run"))
    damage(run.newest, Executed(tmp_path / "executed"))
    with caplog.at_level("INFO", logger="matched"):
        again = trained(run.directory, weights=99)
    assert not (tmp_path / "executed").exists()
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert re.search(f"step_00000012 is damaged .*{says}", warnings[0])
    assert "resumed from step 10 of 12" in caplog.messages
    assert again.losses == pytest.approx(Trained(directory=pair / "sharded").losses, rel=1e-4)
    assert again.checkpoints == ["step_00000010", "step_00000012.pt"]


def test_what_the_traps_hold_is_executed_by_those_who_unpickle_it(tmp_path):
    pickle.loads(pickle.dumps(Executed(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


class TestKept:
    def write(self, folder, *steps):
        for step in steps:
            state = checkpoint.TrainingState(tensors={}, plain={})
            checkpoint.save(folder, step, state, sharded=False)
        return {path.name for path in folder.iterdir()}

    def test_the_last_two_whichever_kind_they_are(self, tmp_path):
        (tmp_path / "step_00000003").mkdir()
        (tmp_path / "step_00000004").mkdir()
        assert self.write(tmp_path, 5) == {"step_00000004", "step_00000005.pt"}
        assert self.write(tmp_path, 6) == {"step_00000005.pt", "step_00000006.pt"}

    def test_a_damaged_one_of_the_same_step_or_a_later_one_is_not(self, tmp_path):
        self.write(tmp_path, 3, 9)
        (tmp_path / "step_00000005").mkdir()
        assert self.write(tmp_path, 5) == {"step_00000003.pt", "step_00000005.pt"}

    def test_what_somebody_put_aside_is_left_alone(self, tmp_path):
        (tmp_path / "step_00000002.pt.old").write_bytes(b"")
        kept = self.write(tmp_path, 3, 4, 5)
        assert kept == {"step_00000002.pt.old", "step_00000004.pt", "step_00000005.pt"}
        state = checkpoint.load_newest(tmp_path / "none", "", lambda name: None)
        assert state is None


class TestOfAnotherForm:
    """What a trainer that is not ours keeps, in whatever form it has for it."""

    def save(self, folder, *steps):
        for step in steps:
            state = {"mine": {"of": "run"}, "weights": [torch.full((3,), float(step))]}
            checkpoint.save_file(folder, step, state)

    def load_newest(self, folder, signature="run"):
        return checkpoint.load_newest_file(folder, signature, lambda state: state["mine"]["of"])

    def test_the_newest_is_found_as_it_was(self, tmp_path):
        assert self.load_newest(tmp_path / "none") is None
        self.save(tmp_path, 3, 12, 5)
        assert {path.name for path in tmp_path.iterdir()} == {
            "step_00000003.pt", "step_00000005.pt",
        }  # fmt: skip
        state = self.load_newest(tmp_path)
        assert state["mine"] == {"of": "run"}
        assert state["weights"][0].tolist() == [5.0] * 3

    @pytest.mark.parametrize("kept", [0, 100, 800])
    def test_one_that_was_cut_short_is_passed_over(self, tmp_path, caplog, kept):
        self.save(tmp_path, 3, 5)
        newest = tmp_path / "step_00000005.pt"
        assert newest.stat().st_size > 800
        os.truncate(newest, kept)
        with caplog.at_level("WARNING", logger="matched"):
            assert self.load_newest(tmp_path)["weights"][0].tolist() == [3.0] * 3
        (message,) = caplog.messages
        assert message.startswith(f"{newest} is damaged (")

    def test_one_that_does_not_say_whose_it_is_is_passed_over(self, tmp_path, caplog):
        self.save(tmp_path, 3)
        checkpoint.save_file(tmp_path, 5, {"weights": []})
        with caplog.at_level("WARNING", logger="matched"):
            assert self.load_newest(tmp_path)["weights"][0].tolist() == [3.0] * 3
        assert "step_00000005.pt is damaged (KeyError: 'mine')" in caplog.text

    def test_one_of_another_run_is_refused(self, tmp_path):
        self.save(tmp_path, 3)
        message = "step_00000003.pt is a checkpoint of run run, not of other; move it away"
        with pytest.raises(ValueError, match=message):
            self.load_newest(tmp_path, "other")

    def test_nothing_in_it_is_executed(self, tmp_path):
        self.save(tmp_path, 3)
        trap = Executed(tmp_path / "executed")
        torch.save({"mine": {"of": "run"}, "trap": trap}, tmp_path / "step_00000005.pt")
        assert self.load_newest(tmp_path)["weights"][0].tolist() == [3.0] * 3
        assert not trap.folder.exists()


class TestConfirm:
    def test_check_ownership_before_each_guarded_write(self, tmp_path):
        there = []
        folder = tmp_path / "checkpoints"

        def confirm():
            there.append(sorted(path.stem[-2:] for path in folder.glob("*")))

        trained(tmp_path, where={"check_ownership": confirm})
        fingerprint = [[]] * BATCHES
        assert there == [*fingerprint, [], ["05"], ["05", "10"]]

    @pytest.mark.parametrize(
        "writes, fingerprint, checkpoints",
        [(1, 1, []), (BATCHES + 1, BATCHES, ["step_00000005.pt"])],
        ids=["fingerprint", "checkpoint"],
    )
    def test_a_run_that_lost_its_lease_writes_nothing(
        self, tmp_path, writes, fingerprint, checkpoints
    ):
        answers = iter([*[None] * writes, RuntimeError("taken over")])

        def confirm():
            if (error := next(answers)) is not None:
                raise error

        with pytest.raises(RuntimeError, match="taken over"):
            trained(tmp_path, where={"check_ownership": confirm})
        written = Trained(directory=tmp_path).json("fingerprint.json")["batches"]
        assert len(written) == fingerprint
        assert [path.name for path in tmp_path.glob("checkpoints/*")] == checkpoints


@pytest.fixture
def small(tmp_path):
    """A run whose checkpoints are on a disk of 256 KiB."""
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


class TestFullDisk:
    def check(self, error, folder):
        message = str(error.value)
        assert "\n" not in message
        assert f"the checkpoint step_00000010.pt could not be written to {folder}: " in message
        assert "MiB are free there); the checkpoints before it are whole" in message
        assert "a new submission goes on from the newest" in message
        assert [path.name for path in folder.iterdir() if "step" in path.name] == [
            "step_00000005.pt"
        ]

    @pytest.mark.parametrize("left", [0, 4096, 8192])
    def test_it_is_said_and_a_new_submission_goes_on(self, small, undisturbed, left):
        folder, filler = small / "checkpoints", small / "checkpoints" / "filler"
        count = iter(range(100))

        def loss(model, batch):
            if next(count) == 14:
                free = shutil.disk_usage(folder).free
                filler.write_bytes(b"0" * (free - left))
            return square(model, batch)

        with pytest.raises(OSError) as error:
            trained(small, loss=loss)
        assert error.value.errno == errno.ENOSPC
        assert "No space left on device" in str(error.value)
        self.check(error, folder)
        filler.unlink()
        assert_same_run(trained(small, weights=99), undisturbed)

    def test_torchs_own_words_are_kept_where_the_system_has_none(self, tmp_path, monkeypatch):
        save, calls = torch.save, []

        def failing(content, file):
            calls.append(1)
            if len(calls) == 2:
                file.write(b"half")
                raise RuntimeError("[enforce fail at\ninline_container.cc:672] . unexpected pos")
            save(content, file)

        monkeypatch.setattr(torch, "save", failing)
        with pytest.raises(OSError, match=r"RuntimeError: \[enforce fail at inline_cont") as error:
            trained(tmp_path)
        self.check(error, tmp_path / "checkpoints")
