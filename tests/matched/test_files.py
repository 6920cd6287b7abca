"""Files are whole or absent."""

import errno
import json

import pytest

from matched import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "result.json"
    files.write_json(path, {"α": [1, 2.5, None]})
    assert files.read_json(path) == {"α": [1, 2.5, None]}
    assert names(path.parent) == ["result.json"]


def test_a_write_that_fails_midway_leaves_the_old_file_and_no_half_one(tmp_path):
    path = tmp_path / "checkpoint"
    files.write_text(path, "old")
    with pytest.raises(OSError) as failed, files.atomic_write(path) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(failed.value) == f"[Errno 28] No space left on device: '{path}'", "and names it"
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["checkpoint"]


def test_the_new_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "checkpoint"
    with files.atomic_write(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"


def test_who_is_reading_the_old_file_goes_on_reading_it(tmp_path):
    path = tmp_path / "progress.json"
    files.write_text(path, "old and longer")
    with path.open(encoding="utf-8") as reader:
        files.write_text(path, "new")
        assert reader.read() == "old and longer"
    assert path.read_text(encoding="utf-8") == "new"


def test_what_has_no_json_form_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "result.json", {"metrics": {1, 2}})
    assert names(tmp_path) == []


def test_an_absent_file_is_none(tmp_path):
    assert files.read_json(tmp_path / "no" / "result.json") is None


@pytest.mark.parametrize("text", ["", '{"a": 1', "[1, 2]", "null", '{"a": 1} {"b": 2}', "\x00"])
def test_anything_but_one_whole_object_is_damaged(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(files.DamagedFileError, match=str(path)):
        files.read_json(path)


def test_bytes_that_are_no_text_are_damaged(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(json.dumps({"a": "é"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(files.DamagedFileError, match=str(path)):
        files.read_json(path)
