"""Text files: every format gives the same documents; damaged ones are named with their line."""

import gzip
import json

import pytest

from dyt_llama import text_files
from dyt_llama.text_files import documents, list_text_files

TEXTS = ["first", "zweites Dokument ü 字", "", "fourth\nwith two lines"]
LINES = "".join(json.dumps({"id": i, "body": t}) + "\n" for i, t in enumerate(TEXTS)).encode()


def write(path, content):
    path.write_bytes(content)
    return path


def test_jsonl_plain_and_gzip_give_the_same_documents(tmp_path):
    for path in (
        write(tmp_path / "a.jsonl", LINES),
        write(tmp_path / "b.jsonl", LINES.rstrip()),
        write(tmp_path / "c.jsonl", LINES.replace(b"\n", b"\r\n\n")),
        write(tmp_path / "a.jsonl.gz", gzip.compress(LINES)),
    ):
        assert list(documents(path, "body")) == TEXTS


def test_txt_is_one_document(tmp_path):
    path = write(tmp_path / "a.txt", "Ein Text\nmit ü".encode())
    assert list(documents(path, "body")) == ["Ein Text\nmit ü"]
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8"):
        list(documents(write(path, b"\xff\xfe"), "body"))


def test_list_text_files_finds_all_formats_sorted(tmp_path):
    (tmp_path / "sub").mkdir()
    names = ["b.jsonl", "a.jsonl.gz", "sub/c.jsonl.zst", "d.parquet", "e.TXT"]
    for name in [*names, "f.csv", ".hidden.txt"]:
        write(tmp_path / name, b"")
    found = [str(path.relative_to(tmp_path)) for path in list_text_files(tmp_path)]
    assert sorted(found) == sorted(names) and found.index("a.jsonl.gz") < found.index("b.jsonl")


@pytest.mark.parametrize("files", [[], ["a.csv"]])
def test_folder_without_text_is_refused(tmp_path, files):
    for name in files:
        write(tmp_path / name, b"")
    with pytest.raises(ValueError, match=r"has no text; expected files that end in \.jsonl"):
        list_text_files(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        list_text_files(tmp_path / "none")


class TestDamagedLines:
    @pytest.mark.parametrize(
        "line, reason",
        [
            (b'{"body": "unfinished', "is not JSON"),
            (b'{"text": "elsewhere"}', "has no text in the field 'body'"),
            (b'{"body": 3}', "has no text in the field 'body'"),
            (b'["body"]', "has no text in the field 'body'"),
            (b'{"body": "\xff"}', "is not JSON"),
        ],
    )
    def test_damaged_line_is_named(self, tmp_path, line, reason):
        path = write(tmp_path / "a.jsonl", LINES + line + b"\n")
        with pytest.raises(ValueError, match=rf"a.jsonl, line 5, {reason}"):
            list(documents(path, "body"))

    def test_few_damaged_lines_are_left_out_with_a_warning(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(text_files, "MAX_BAD_LINES", 0.1)
        path = write(tmp_path / "a.jsonl", b"junk\n" + 3 * LINES)
        assert list(documents(path, "body")) == 3 * TEXTS
        assert "a.jsonl, line 1, is not JSON" in caplog.text
        path = write(tmp_path / "b.jsonl", b"junk\n" + 2 * LINES)
        with pytest.raises(ValueError, match="1 of the 9 lines of a file are damaged"):
            list(documents(path, "body"))


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:40] + b"\0\0\0" + b[43:]])
def test_damaged_gzip_file_is_named(tmp_path, damage):
    path = write(tmp_path / "a.jsonl.gz", damage(gzip.compress(LINES)))
    with pytest.raises(ValueError, match=r"a.jsonl.gz is truncated or damaged"):
        list(documents(path, "body"))


class TestOptionalFormats:
    def test_zst_gives_the_same_documents_over_several_frames(self, tmp_path):
        zstandard = pytest.importorskip("zstandard")
        frames = [zstandard.compress(LINES[:50]), zstandard.compress(LINES[50:])]
        path = write(tmp_path / "a.jsonl.zst", b"".join(frames))
        assert list(documents(path, "body")) == TEXTS

    def test_truncated_zst_file_is_named(self, tmp_path):
        zstandard = pytest.importorskip("zstandard")
        path = write(tmp_path / "a.jsonl.zst", zstandard.compress(LINES)[:-3])
        with pytest.raises(ValueError, match=r"a.jsonl.zst is (truncated|damaged)"):
            list(documents(path, "body"))
        with pytest.raises(ValueError, match=r"a.jsonl.zst is damaged"):
            list(documents(write(path, LINES), "body"))

    def test_parquet_gives_the_same_documents(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.table({"id": [0, 1, 2, 3], "body": TEXTS}), path)
        assert list(documents(path, "body")) == TEXTS
        with pytest.raises(ValueError, match=r"a.parquet has no column 'text'; it has id, body"):
            list(documents(path, "text"))
        write(path, path.read_bytes()[:-5])
        with pytest.raises(ValueError, match=r"a.parquet is not a whole parquet file"):
            list(documents(path, "body"))

    @pytest.mark.parametrize(
        "name, package", [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")]
    )
    def test_missing_library_is_named(self, tmp_path, monkeypatch, name, package):
        def absent(name):
            raise ModuleNotFoundError(name)

        monkeypatch.setattr(text_files, "import_module", absent)
        message = rf"{name} needs the package {package}.*run `pip install {package}`"
        with pytest.raises(ValueError, match=message):
            list(documents(write(tmp_path / name, LINES), "body"))
