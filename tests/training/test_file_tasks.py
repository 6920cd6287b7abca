"""File tasks: every file is made once, through errors, damage, kills and preemption."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from matched import signals
from matched.lease import LeaseLostError
from matched.task import Context
from matched.training import file_tasks
from matched.training.file_tasks import make_files, remove_stale_files, verified_checksums

from ..processes import run as together

SCRIPT = Path(__file__).with_name("two_processes_file_tasks.py")
NAMES = ["a.txt", "b.txt", "c.txt", "d.txt"]


class Maker:
    """Writes files and records their names in order.

    Args:
        at: name of the file at which ``then`` is called, when it is half written.
    """

    def __init__(self, at=None, then=None):
        self.at, self.then = at, then
        self.names = []

    def __call__(self, name, path):
        self.names.append(name)
        if name == self.at:
            path.write_text("half")
            self.then()
        path.write_text(f"content of {name}")


@pytest.fixture
def context(tmp_path):
    return Context(directory=tmp_path, signature="x")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "files"


def raising(error):
    def raise_it():
        raise error

    return raise_it


def preempt():
    """Send this process the preemption signal, as Slurm does; another thread handles it."""
    os.kill(os.getpid(), signals.PREEMPTION_SIGNAL)
    while not signals.stop_signal():
        time.sleep(0.001)


def contents(folder):
    """Name → text of the files in a folder except the checksums."""
    paths = [path for path in folder.iterdir() if path.suffix != ".sha256"]
    return {path.name: path.read_text() for path in sorted(paths)}


WHOLE = {name: f"content of {name}" for name in NAMES}


class TestMakeFiles:
    def test_make_files_makes_all_in_order_with_checksums(self, context, folder, monkeypatch):
        monkeypatch.setattr(file_tasks, "BLOCK", 7)  # files are read in parts
        maker = Maker()
        sums = make_files(context, folder, NAMES, maker)
        assert maker.names == NAMES and contents(folder) == WHOLE
        assert list(sums.items()) == [
            (name, hashlib.sha256(text.encode()).hexdigest()) for name, text in WHOLE.items()
        ]
        assert verified_checksums(context, folder, NAMES) == sums

    def test_make_files_keeps_existing_files(self, context, folder):
        sums = make_files(context, folder, NAMES[:2], Maker())
        maker = Maker()
        assert make_files(context, folder, NAMES, maker).items() >= sums.items()
        assert maker.names == ["c.txt", "d.txt"]

    def test_make_files_accepts_an_empty_list(self, context, folder):
        assert make_files(context, folder, [], Maker()) == {}

    def test_make_files_writes_progress(self, context, folder, caplog):
        make_files(context, folder, NAMES[:1], Maker())
        during = []
        maker = Maker("c.txt", lambda: during.append(progress(context)))
        make_files(context, folder, NAMES, maker)
        assert [*during, progress(context)] == [(2, 4), (4, 4)]

    def test_make_files_logs_how_many_exist_once(self, context, folder, caplog):
        with caplog.at_level("INFO", logger="matched"):
            make_files(context, folder, NAMES[:1], Maker())
            make_files(context, folder, NAMES, Maker())
            make_files(context, folder, [], Maker())
        assert caplog.messages == ["files: 0 of 1 files exist", "files: 1 of 4 files exist"]

    def test_make_files_creates_the_folder_and_keeps_other_files(self, context, folder):
        folder = folder / "of" / "several levels"
        make_files(context, folder, NAMES, Maker())
        (folder / "mine.tmp").touch()
        (folder / ".a.txt.123.tmp").touch()
        make_files(context, folder, NAMES, Maker())
        others = {path.name for path in folder.iterdir()} - {*NAMES}
        assert others == {"mine.tmp", *(f"{name}.sha256" for name in NAMES)}

    def test_make_files_stops_after_the_lease_is_lost(self, tmp_path, folder):
        checks = []

        def check_ownership():
            checks.append(1)
            if len(checks) == 3:
                raise RuntimeError("another process is at work")

        maker = Maker()
        with pytest.raises(RuntimeError, match="another process is at work"):
            make_files(
                Context(directory=tmp_path, signature="x", check_ownership=check_ownership),
                folder,
                NAMES,
                maker,
            )
        assert maker.names == ["a.txt", "b.txt"]


def test_remove_stale_files_stops_after_the_lease_is_lost(tmp_path):
    stale, kept = tmp_path / "stale", tmp_path / "kept.txt"
    stale.mkdir()
    (stale / "file.txt").touch()
    kept.touch()

    def check_ownership():
        if not stale.exists():
            raise LeaseLostError("taken over")

    where = Context(directory=tmp_path, signature="x", check_ownership=check_ownership)
    with pytest.raises(LeaseLostError, match="taken over"):
        remove_stale_files(where, [stale, kept])
    assert not stale.exists() and kept.exists()


def test_remove_stale_files_ignores_missing_ones(context, tmp_path):
    (tmp_path / "stale.txt").touch()
    remove_stale_files(context, [tmp_path / "missing.txt", tmp_path / "stale.txt"])
    assert list(tmp_path.iterdir()) == []


def progress(context):
    written = json.loads((context.directory / "progress.json").read_text())
    return written["step"], written["steps"]


class TestDamage:
    @pytest.mark.parametrize("text", ["", "content of b", "content of b.txt.", "Content of b.txt"])
    def test_damaged_file_is_reported_and_recreated(self, context, folder, caplog, text):
        sums = make_files(context, folder, NAMES, Maker())
        (folder / "b.txt").write_text(text)
        assert verified_checksums(context, folder, NAMES) == sums | {"b.txt": None}
        assert f"{folder / 'b.txt'} is damaged" in caplog.text
        maker = Maker()
        assert make_files(context, folder, NAMES, maker) == sums
        assert maker.names == ["b.txt"] and contents(folder) == WHOLE

    @pytest.mark.parametrize("checksum", [None, b"", b"0" * 64, b"\xff\xfe"])
    def test_file_without_its_checksum_is_recreated(self, context, folder, checksum):
        sums = make_files(context, folder, NAMES, Maker())
        path = folder / "b.txt.sha256"
        path.unlink() if checksum is None else path.write_bytes(checksum)
        maker = Maker()
        assert make_files(context, folder, NAMES, maker) == sums
        assert maker.names == ["b.txt"]

    def test_missing_file_is_recreated(self, context, folder):
        make_files(context, folder, NAMES, Maker())
        (folder / "b.txt").unlink()
        maker = Maker()
        make_files(context, folder, NAMES, maker)
        assert maker.names == ["b.txt"]

    def test_unreadable_file_is_an_error_and_not_recreated(self, context, folder, monkeypatch):
        make_files(context, folder, NAMES, Maker())

        def digest(path):
            raise OSError(errno.EIO, "Input/output error", str(path))

        monkeypatch.setattr("matched.training.file_tasks.digest", digest)
        with pytest.raises(OSError, match="Input/output error"):
            make_files(context, folder, NAMES, Maker())


class TestInterruption:
    def test_error_keeps_only_finished_files(self, context, folder):
        with pytest.raises(ValueError, match="wrong"):
            make_files(context, folder, NAMES, Maker("c.txt", raising(ValueError("wrong"))))
        assert list(contents(folder)) == ["a.txt", "b.txt"]
        maker = Maker()
        make_files(context, folder, NAMES, maker)
        assert maker.names == ["c.txt", "d.txt"] and contents(folder) == WHOLE

    def test_error_keeps_the_previous_file(self, context, folder):
        make_files(context, folder, NAMES, Maker())
        (folder / "c.txt").write_text("damaged")
        with pytest.raises(ValueError, match="wrong"):
            make_files(context, folder, NAMES, Maker("c.txt", raising(ValueError("wrong"))))
        assert contents(folder) == WHOLE | {"c.txt": "damaged"}

    @pytest.mark.parametrize("replaced", [False, True], ids=["while writing", "before the rename"])
    def test_killed_make_files_resumes(self, context, folder, monkeypatch, replaced):
        def kill(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        maker = Maker(None if replaced else "c.txt", kill)
        with monkeypatch.context() as patched:
            if replaced:  # after the file and its checksum are written
                replace = Path.replace
                patched.setattr(
                    Path,
                    "replace",
                    lambda path, to: kill() if to.name == "c.txt" else replace(path, to),
                )
            process = multiprocessing.get_context("fork").Process(
                target=make_files, args=(context, folder, NAMES, maker)
            )
            process.start()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        temporaries = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
        assert len(temporaries) == 1 and temporaries[0].startswith(".c.txt.")
        before = {name: (folder / name).stat().st_mtime_ns for name in ("a.txt", "b.txt")}
        maker = Maker()
        make_files(context, folder, NAMES, maker)
        assert maker.names == ["c.txt", "d.txt"] and contents(folder) == WHOLE
        assert before == {name: (folder / name).stat().st_mtime_ns for name in before}

    def test_preempted_make_files_finishes_the_current_file(self, context, folder):
        maker = Maker("b.txt", preempt)
        with signals.watch_signals(600, print), pytest.raises(signals.Interrupted):
            make_files(context, folder, NAMES, maker)
        assert maker.names == ["a.txt", "b.txt"]
        maker = Maker()
        make_files(context, folder, NAMES, maker)
        assert maker.names == ["c.txt", "d.txt"] and contents(folder) == WHOLE

    def test_preemption_in_the_last_file_finishes_the_task(self, context, folder):
        maker = Maker("d.txt", preempt)
        with signals.watch_signals(600, print):
            make_files(context, folder, NAMES, maker)
        assert contents(folder) == WHOLE

    def test_full_disk_error_names_the_file(self, context, folder):
        full = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(OSError, match=r"No space left on device.*c\.txt"):
            make_files(context, folder, NAMES, Maker("c.txt", raising(full)))
        assert list(contents(folder)) == ["a.txt", "b.txt"]


def test_two_processes_make_every_file_once(two_processes):
    made = [(two_processes / "files" / f"made-{rank}.txt").read_text() for rank in range(2)]
    assert made == ["['0.txt', '2.txt', '4.txt'] 5", "['1.txt', '3.txt'] 5"]
    expected = {f"{number}.txt": f"content of {number}.txt" for number in range(5)}
    assert contents(two_processes / "files" / "files") == expected


@pytest.mark.slow
def test_two_processes_share_files_errors_and_preemption(tmp_path):
    together(SCRIPT, tmp_path)
    endings = [(tmp_path / f"endings-{rank}.txt").read_text().splitlines() for rank in range(2)]
    both = {0: "5 files", 1: "ValueError: 3.txt is wrong", 2: "5 files", 5: "5 files", 7: "5 files"}
    both |= {4: "Interrupted: ", 6: "RuntimeError: another process is at work"}
    for lines in endings:
        assert {i: lines[i] for i in both} == both
    assert [lines[3] for lines in endings] == [
        "RuntimeError: another process failed: Unpicklable: very odd",
        "Unpicklable: very odd",
    ]
    whole = {f"{i}.txt": f"content of {i}.txt" for i in range(5)}
    for name in ("whole", "wrong", "preempted", "slow"):
        assert contents(tmp_path / name / "files") == whole
    assert list(contents(tmp_path / "unpicklable" / "files")) == ["0.txt", "1.txt", "2.txt"]
    assert not list(contents(tmp_path / "lost" / "files"))
