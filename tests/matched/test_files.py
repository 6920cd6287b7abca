"""Atomic file writes and reading of JSON."""

import errno
import json

import pytest

from matched import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_json_creates_missing_folders(tmp_path):
    path = tmp_path / "a" / "b" / "result.json"
    files.write_json(path, {"α": [1, 2.5, None]})
    assert files.read_json(path) == {"α": [1, 2.5, None]}
    assert names(path.parent) == ["result.json"]


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "checkpoint"
    files.write_text(path, "old")
    with pytest.raises(OSError) as failed, files.atomic_write(path) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(failed.value) == f"[Errno 28] No space left on device: '{path}'", (
        "the error names the file"
    )
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["checkpoint"]


def test_atomic_write_shows_the_file_when_it_is_complete(tmp_path):
    path = tmp_path / "checkpoint"
    with files.atomic_write(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"


def test_atomic_write_renames_the_file_when_it_is_on_disk(tmp_path, disk_events):
    """Otherwise a crash of the machine would leave an empty file with the final name."""
    with files.atomic_write(tmp_path / "result.json") as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert disk_events == [
        ("sync", temporary.name, 3),
        ("rename", temporary.name, "result.json"),
    ]
    files.write_json(tmp_path / "result.json", {"a": 1})
    assert [kind for kind, *_ in disk_events[2:]] == ["sync", "rename"]


def test_atomic_write_does_not_disturb_an_open_reader(tmp_path):
    path = tmp_path / "progress.json"
    files.write_text(path, "old and longer")
    with path.open(encoding="utf-8") as reader:
        files.write_text(path, "new")
        assert reader.read() == "old and longer"
    assert path.read_text(encoding="utf-8") == "new"


def test_write_json_of_an_unserializable_value_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "result.json", {"metrics": {1, 2}})
    assert names(tmp_path) == []


def test_read_json_returns_none_for_a_missing_file(tmp_path):
    assert files.read_json(tmp_path / "no" / "result.json") is None


@pytest.mark.parametrize("text", ["", '{"a": 1', "[1, 2]", "null", '{"a": 1} {"b": 2}', "\x00"])
def test_read_json_refuses_anything_but_one_object(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(files.DamagedFileError, match=str(path)):
        files.read_json(path)


def test_read_json_refuses_other_encodings(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(json.dumps({"a": "é"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(files.DamagedFileError, match=str(path)):
        files.read_json(path)
