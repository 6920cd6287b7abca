"""Identity of processes: by boot, PID namespace, id and start time, from a /proc of the test."""

import pytest

from matched import process_identity

WHERE = "3f2a.4026531836"


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc with the processes 7 (sleeping since tick 500) and 8 (a zombie since 600).

    Their names, which the kernel cuts to 15 bytes, end within a character.
    """
    boot = tmp_path / "sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text("3f2a\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026531836]")
    for pid, state, start in ((7, "S", 500), (8, "Z", 600)):
        (tmp_path / str(pid)).mkdir()
        # Field 22 is the start; the name in parentheses may have spaces and parentheses.
        fields = " ".join(map(str, range(4, 22)))
        text = b"%d (a) name of an \xc3) %b %b %d 23 24\n"
        stat = text % (pid, state.encode(), fields.encode(), start)
        (tmp_path / str(pid) / "stat").write_bytes(stat)
    monkeypatch.setattr(process_identity, "PROC", tmp_path)
    return tmp_path


def test_identity_has_boot_namespace_and_start(proc):
    assert process_identity.namespace() == WHERE
    assert process_identity.identity(7) == f"{WHERE}.500"
    assert process_identity.identity(9) == f"{WHERE}.0", "it is gone already"
    assert [process_identity.start_time(pid) for pid in (7, 8, 9)] == [500, 600, None]
    (proc / "sys/kernel/random/boot_id").unlink()
    assert process_identity.namespace() == process_identity.identity(7) == ""
    (proc / "sys/kernel/random/boot_id").mkdir()  # cannot be read
    (proc / "7/stat").unlink()
    (proc / "7/stat").mkdir()
    assert (process_identity.namespace(), process_identity.start_time(7)) == ("", None)


@pytest.mark.parametrize(
    ("pid", "process", "error", "running"),
    [
        (7, f"{WHERE}.500", None, True),
        (7, f"{WHERE}.501", None, False),  # a later process with the same id
        (8, f"{WHERE}.600", None, False),  # a zombie
        (7, "3f2a.1.500", None, None),  # another container
        (7, "", None, None),
        (9, f"{WHERE}.500", ProcessLookupError, False),
        (9, f"{WHERE}.500", PermissionError, None),  # another user's, hidden by hidepid
        (9, f"{WHERE}.500", None, None),  # hidden
    ],
)
def test_is_running_is_none_where_it_cannot_be_seen(
    proc, monkeypatch, pid, process, error, running
):
    asked = []

    def kill(pid, number):
        asked.append((pid, number))
        if error:
            raise error

    monkeypatch.setattr(process_identity.os, "kill", kill)
    assert process_identity.is_running(pid, process) is running
    assert asked == ([(9, 0)] if pid == 9 else []), "only the permission to send a signal"
