"""Atomic file writes and reading of JSON."""

import errno
import json
import os

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


def test_read_json_names_what_is_wrong(tmp_path):
    path = tmp_path / "result.json"
    for text, fault in (
        ("[1]", "is not a JSON object"),
        ('{"b": 1}', "lacks a, c"),
        ("{", "is not valid JSON (Expecting property name enclosed in double quotes: line 1 "
         "column 2 (char 1))"),
    ):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        with pytest.raises(files.DamagedFileError) as damage:
            files.read_json(path, ("a", "b", "c"))
        assert str(damage.value) == f"{path} {fault}"
    assert files.read_json(path / "below a file") is None


def test_write_json_is_indented_and_ends_with_a_line_break(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [1], "b": "é"})
    assert (tmp_path / "a.json").read_bytes() == b'{\n "a": [\n  1\n ],\n "b": "\\u00e9"\n}\n'


def test_atomic_write_has_a_hidden_name_for_each_process(tmp_path):
    with files.atomic_write(tmp_path / "a.json") as temporary:
        temporary.touch()
        assert temporary == tmp_path / f".a.json.{os.getpid()}.tmp"


def test_atomic_write_keeps_the_file_that_an_error_names(tmp_path):
    with pytest.raises(FileNotFoundError) as failed, files.atomic_write(tmp_path / "a.json"):
        (tmp_path / "none" / "b.json").read_bytes()
    assert failed.value.filename == str(tmp_path / "none" / "b.json")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xef\xbb\xbfa = 1\n", "a = 1\n"),
        ("α\r\n".encode(), "α\r\n"),
        (
            "a".encode("utf-16"),
            "{} is in UTF-16 or not a text file; expected UTF-8: save the file as UTF-8, for "
            "example with `iconv -f UTF-16 -t UTF-8`",
        ),
        (
            b"a\0b",
            "{} is in UTF-16 or not a text file; expected UTF-8: save the file as UTF-8, for "
            "example with `iconv -f UTF-16 -t UTF-8`",
        ),
        (
            b"a\nb\ncaf\xe9\n",
            "{}, line 3: byte 0xe9 is not UTF-8; expected UTF-8: save the file as UTF-8, for "
            "example with `iconv -f LATIN1 -t UTF-8`",
        ),
    ],
    ids=["mark", "plain", "UTF-16", "null byte", "Latin-1"],
)
def test_read_text_takes_utf8_and_says_what_else_it_is(tmp_path, content, told):
    path = tmp_path / "site.toml"
    path.write_bytes(content)
    if not told.startswith("{}"):
        assert files.read_text(path) == told
    else:
        with pytest.raises(ValueError) as refusal:
            files.read_text(path)
        assert str(refusal.value) == told.format(path)


def test_read_json_lines_yields_complete_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for missing in (path, tmp_path / "none" / "a", path / "b"):
        assert list(files.read_json_lines(missing, ("step",))) == []
        path.touch()
    path.write_text('{"step": 1}\n{"step": 2, "x": 3}\n{"ste', encoding="utf-8")
    assert list(files.read_json_lines(path, ("step",))) == [{"step": 1}, {"step": 2, "x": 3}]
    for damage in ("[1]", "x", '{"x": 1}'):
        path.write_text(f'{{"step": 1}}\n{damage}\n{{"step": 2}}\n', encoding="utf-8")
        lines = files.read_json_lines(path, ("step",))
        assert next(lines) == {"step": 1}
        with pytest.raises(files.DamagedFileError) as damaged:
            next(lines)
        assert str(damaged.value) == f"{path}, line 2, is damaged"


def test_unique_file_names_differ_in_more_than_case():
    names = ["DyT (tuned)", "DyT [tuned]", "dyt-tuned", "a_b", "α", "?", "LN+x"]
    assert files.unique_file_names(names) == {
        "DyT (tuned)": "DyT-tuned",
        "DyT [tuned]": "DyT-tuned-2",
        "dyt-tuned": "dyt-tuned-3",
        "a_b": "a_b",
        "α": "unnamed",
        "?": "unnamed-2",
        "LN+x": "LN-x",
    }
