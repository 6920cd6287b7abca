"""Work that is many files: each is made once, whatever happens in between."""

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
from matched.task import Context
from matched.training.file_tasks import make_files, verified_checksums

from .processes import run as together

SCRIPT = Path(__file__).with_name("two_processes_file_tasks.py")
NAMES = ["a.txt", "b.txt", "c.txt", "d.txt"]


class Made:
    """Writes files and keeps their names in the order in which it was asked for them.

    Args:
        at: the name of the file that is written half when ``then`` is called.
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


def ask():
    """As Slurm does; another thread notes it."""
    os.kill(os.getpid(), signals.PREEMPTION_SIGNAL)
    while not signals.stop_signal():
        time.sleep(0.001)


def contents(folder):
    """Name → text of what is in a folder, but for the checksums."""
    paths = [path for path in folder.iterdir() if path.suffix != ".sha256"]
    return {path.name: path.read_text() for path in sorted(paths)}


WHOLE = {name: f"content of {name}" for name in NAMES}


class TestFilling:
    def test_all_files_are_made_in_order_with_their_checksums(self, context, folder):
        made = Made()
        sums = make_files(context, folder, NAMES, made)
        assert made.names == NAMES and contents(folder) == WHOLE
        assert list(sums.items()) == [
            (name, hashlib.sha256(text.encode()).hexdigest()) for name, text in WHOLE.items()
        ]
        assert verified_checksums(context, folder, NAMES) == sums

    def test_what_is_there_is_not_made_again(self, context, folder):
        sums = make_files(context, folder, NAMES[:2], Made())
        made = Made()
        assert make_files(context, folder, NAMES, made).items() >= sums.items()
        assert made.names == ["c.txt", "d.txt"]

    def test_nothing_to_do_is_done(self, context, folder):
        assert make_files(context, folder, [], Made()) == {}

    def test_status_is_told_how_far_it_is(self, context, folder, caplog):
        make_files(context, folder, NAMES[:1], Made())
        told = []
        made = Made("c.txt", lambda: told.append(progress(context)))
        make_files(context, folder, NAMES, made)
        assert [*told, progress(context)] == [(2, 4), (4, 4)]

    def test_who_has_lost_the_run_makes_nothing_more(self, tmp_path, folder):
        asked = []

        def confirm():
            asked.append(len(asked))
            if len(asked) == 3:
                raise RuntimeError("another process is at work")

        made = Made()
        with pytest.raises(RuntimeError, match="another process is at work"):
            make_files(
                Context(directory=tmp_path, signature="x", check_ownership=confirm),
                folder,
                NAMES,
                made,
            )
        assert made.names == ["a.txt", "b.txt"]


def progress(context):
    told = json.loads((context.directory / "progress.json").read_text())
    return told["step"], told["steps"]


class TestDamage:
    @pytest.mark.parametrize("text", ["", "content of b", "content of b.txt.", "Content of b.txt"])
    def test_a_damaged_file_is_named_and_made_anew(self, context, folder, caplog, text):
        sums = make_files(context, folder, NAMES, Made())
        (folder / "b.txt").write_text(text)
        assert verified_checksums(context, folder, NAMES) == sums | {"b.txt": None}
        assert f"{folder / 'b.txt'} is damaged" in caplog.text
        made = Made()
        assert make_files(context, folder, NAMES, made) == sums
        assert made.names == ["b.txt"] and contents(folder) == WHOLE

    @pytest.mark.parametrize("checksum", [None, b"", b"0" * 64, b"\xff\xfe"])
    def test_so_is_a_file_without_its_checksum(self, context, folder, checksum):
        sums = make_files(context, folder, NAMES, Made())
        beside = folder / "b.txt.sha256"
        beside.unlink() if checksum is None else beside.write_bytes(checksum)
        made = Made()
        assert make_files(context, folder, NAMES, made) == sums
        assert made.names == ["b.txt"]

    def test_a_lost_file_is_made_anew(self, context, folder):
        make_files(context, folder, NAMES, Made())
        (folder / "b.txt").unlink()
        made = Made()
        make_files(context, folder, NAMES, made)
        assert made.names == ["b.txt"]

    def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(
        self, context, folder, monkeypatch
    ):
        make_files(context, folder, NAMES, Made())

        def digest(path):
            raise OSError(errno.EIO, "Input/output error", str(path))

        monkeypatch.setattr("matched.training.file_tasks.digest", digest)
        with pytest.raises(OSError, match="Input/output error"):
            make_files(context, folder, NAMES, Made())


class TestInterruption:
    def test_an_error_leaves_what_is_whole_and_nothing_else(self, context, folder):
        with pytest.raises(ValueError, match="wrong"):
            make_files(context, folder, NAMES, Made("c.txt", raising(ValueError("wrong"))))
        assert list(contents(folder)) == ["a.txt", "b.txt"]
        made = Made()
        make_files(context, folder, NAMES, made)
        assert made.names == ["c.txt", "d.txt"] and contents(folder) == WHOLE

    def test_an_error_does_not_cost_the_file_that_was_there(self, context, folder):
        make_files(context, folder, NAMES, Made())
        (folder / "c.txt").write_text("damaged")
        with pytest.raises(ValueError, match="wrong"):
            make_files(context, folder, NAMES, Made("c.txt", raising(ValueError("wrong"))))
        assert contents(folder) == WHOLE | {"c.txt": "damaged"}

    @pytest.mark.parametrize("replaced", [False, True], ids=["half a file", "no name yet"])
    def test_killed_it_goes_on(self, context, folder, monkeypatch, replaced):
        def kill(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        made = Made(None if replaced else "c.txt", kill)
        with monkeypatch.context() as patched:
            if replaced:  # it is written, and so is its checksum
                replace = Path.replace
                patched.setattr(
                    Path,
                    "replace",
                    lambda path, to: kill() if to.name == "c.txt" else replace(path, to),
                )
            process = multiprocessing.get_context("fork").Process(
                target=make_files, args=(context, folder, NAMES, made)
            )
            process.start()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        left = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
        assert len(left) == 1 and left[0].startswith(".c.txt.")
        before = {name: (folder / name).stat().st_mtime_ns for name in ("a.txt", "b.txt")}
        made = Made()
        make_files(context, folder, NAMES, made)
        assert made.names == ["c.txt", "d.txt"] and contents(folder) == WHOLE
        assert before == {name: (folder / name).stat().st_mtime_ns for name in before}

    def test_asked_to_stop_it_ends_the_file_at_hand(self, context, folder):
        made = Made("b.txt", ask)
        with signals.watch_signals(600, print), pytest.raises(signals.Interrupted):
            make_files(context, folder, NAMES, made)
        assert made.names == ["a.txt", "b.txt"]
        made = Made()
        make_files(context, folder, NAMES, made)
        assert made.names == ["c.txt", "d.txt"] and contents(folder) == WHOLE

    def test_asked_to_stop_in_the_last_file_it_is_done(self, context, folder):
        made = Made("d.txt", ask)
        with signals.watch_signals(600, print):
            make_files(context, folder, NAMES, made)
        assert contents(folder) == WHOLE

    def test_a_full_disk_is_told_with_the_name_of_the_file(self, context, folder):
        full = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(OSError, match=r"No space left on device.*c\.txt"):
            make_files(context, folder, NAMES, Made("c.txt", raising(full)))
        assert list(contents(folder)) == ["a.txt", "b.txt"]


@pytest.mark.slow
def test_two_processes_share_the_work_and_what_becomes_of_it(tmp_path):
    together(SCRIPT, tmp_path)
    said = [(tmp_path / f"said-{rank}.txt").read_text().splitlines() for rank in range(2)]
    both = {0: "5 files", 1: "ValueError: 3.txt is wrong", 2: "5 files", 5: "5 files", 7: "5 files"}
    both |= {4: "Interrupted: ", 6: "RuntimeError: another process is at work"}
    for lines in said:
        assert {place: lines[place] for place in both} == both
    assert [lines[3] for lines in said] == [
        "RuntimeError: another process failed: Unsendable: very odd",
        "Unsendable: very odd",
    ]
    whole = {f"{i}.txt": f"content of {i}.txt" for i in range(5)}
    for name in ("whole", "wrong", "asked", "slow"):
        assert contents(tmp_path / name / "files") == whole
    assert list(contents(tmp_path / "odd" / "files")) == ["0.txt", "1.txt", "2.txt"]
    assert not list(contents(tmp_path / "lost" / "files"))
