"""Text files: every format gives the same documents; damaged ones are named with their line."""

import gzip
import json
import zlib
from types import SimpleNamespace

import pytest

from dyt_llama import text_files
from dyt_llama.text_files import documents, is_held_out, list_text_files

from ..messages import refused

TEXTS = ["first", "zweites Dokument ü 字", "", "fourth\nwith two lines"]
LINES = "".join(json.dumps({"id": i, "body": t}) + "\n" for i, t in enumerate(TEXTS)).encode()


def write(path, content):
    path.write_bytes(content)
    return path


def read_refused(path, field="body"):
    """Return the message with which a file is refused."""
    return refused(lambda: list(documents(path, field)))


def test_documents_are_held_out_by_a_hash_of_their_text():
    """Another hash would train on what other runs hold out."""
    texts = [f"text {number}" for number in range(2000)]
    assert not any(is_held_out(text, 0.0) for text in texts)
    assert all(is_held_out(text, 1.0) for text in texts)
    found = [number for number, text in enumerate(texts) if is_held_out(text, 0.004)]
    assert found == [350, 708, 874, 901, 985, 1176, 1233, 1243, 1429, 1457, 1570, 1572]


def test_jsonl_plain_and_gzip_give_the_same_documents(tmp_path):
    for path in (
        write(tmp_path / "a.jsonl", LINES),
        write(tmp_path / "b.jsonl", LINES.rstrip()),
        write(tmp_path / "c.jsonl", LINES.replace(b"\n", b"\r\n\n")),
        write(tmp_path / "a.jsonl.gz", gzip.compress(LINES)),
        write(tmp_path / "D.JSONL.GZ", gzip.compress(LINES)),
    ):
        assert list(documents(path, "body")) == TEXTS


def test_txt_is_one_document(tmp_path):
    path = write(tmp_path / "a.txt", "Ein Text\nmit ü".encode())
    assert list(documents(path, "body")) == ["Ein Text\nmit ü"]
    message = read_refused(write(path, b"\xff\xfe"))
    assert message.startswith(f"{path} is not UTF-8 (") and message.endswith("); convert it")


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
    suffixes = ".jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt"
    assert refused(list_text_files, tmp_path) == (
        f"{tmp_path} has no text; expected files that end in {suffixes}"
    )
    assert refused(list_text_files, tmp_path / "none") == (
        f"there is no folder {tmp_path / 'none'}; expected one with {suffixes}"
    )


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
        message = read_refused(path)
        assert message.startswith(
            "1 of the 5 lines of a file are damaged, and at most one in 10,000 may be: "
            f"{path}, line 5, {reason}"
        )
        assert message.endswith(". Correct or delete the file")

    def test_few_damaged_lines_are_left_out_with_a_warning(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(text_files, "MAX_BAD_LINES", 0.1)
        path = write(tmp_path / "a.jsonl", b"junk\n" + 3 * LINES)
        assert list(documents(path, "body")) == 3 * TEXTS
        (message,) = caplog.messages
        assert message.startswith(f"{path}, line 1, is not JSON (")
        assert message.endswith("); it is left out")
        path = write(tmp_path / "b.jsonl", b"junk\n" + 2 * LINES)
        with pytest.raises(ValueError, match="1 of the 9 lines of a file are damaged"):
            list(documents(path, "body"))


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:40] + b"\0\0\0" + b[43:]])
def test_damaged_gzip_file_is_named(tmp_path, damage):
    path = write(tmp_path / "a.jsonl.gz", damage(gzip.compress(LINES)))
    message = read_refused(path)
    assert message.startswith(f"{path} is truncated or damaged (")
    assert message.endswith("); copy it again")


def test_lines_of_blocks_that_end_anywhere():
    blocks = iter([b"ab", b"c\n", b"d\n\ne", b"", b"f"])
    assert list(text_files._split_lines(blocks)) == [b"abc", b"d", b"", b"ef"]
    assert list(text_files._split_lines(iter([b"a\n"]))) == [b"a"]


class TestZstdFrames:
    """With zlib's streams, which have the methods of zstandard's."""

    @pytest.fixture(autouse=True)
    def _zlib(self, monkeypatch):
        decompressor = SimpleNamespace(decompressobj=zlib.decompressobj)
        stand_in = SimpleNamespace(ZstdDecompressor=lambda: decompressor, ZstdError=zlib.error)
        monkeypatch.setattr(text_files, "import_module", {"zstandard": stand_in}.__getitem__)

    @pytest.mark.parametrize("block", [1, 7, 10_000])
    def test_documents_of_several_frames(self, tmp_path, monkeypatch, block):
        monkeypatch.setattr(text_files, "BLOCK", block)
        frames = [zlib.compress(LINES[:50]), zlib.compress(b""), zlib.compress(LINES[50:])]
        assert list(documents(write(tmp_path / "a.jsonl.zst", b"".join(frames)), "body")) == TEXTS

    @pytest.mark.parametrize("block", [1, 7, 10_000])
    def test_last_frame_that_is_incomplete_is_refused(self, tmp_path, monkeypatch, block):
        monkeypatch.setattr(text_files, "BLOCK", block)
        whole = zlib.compress(LINES)
        path = write(tmp_path / "a.jsonl.zst", whole + zlib.compress(LINES)[:-3])
        assert read_refused(path) == (
            f"{path} is truncated: its last frame is incomplete; copy it again"
        )
        damaged = write(path, whole[:20] + b"\0\0\0" + whole[23:])
        assert read_refused(damaged).startswith(f"{path} is damaged (Error -")


class TestOptionalFormats:
    def test_zst_gives_the_same_documents_over_several_frames(self, tmp_path):
        zstandard = pytest.importorskip("zstandard")
        frames = [zstandard.compress(LINES[:50]), zstandard.compress(LINES[50:])]
        path = write(tmp_path / "a.jsonl.zst", b"".join(frames))
        assert list(documents(path, "body")) == TEXTS

    def test_truncated_zst_file_is_named(self, tmp_path):
        zstandard = pytest.importorskip("zstandard")
        path = write(tmp_path / "a.jsonl.zst", zstandard.compress(LINES)[:-3])
        assert read_refused(path) == (
            f"{path} is truncated: its last frame is incomplete; copy it again"
        )
        message = read_refused(write(path, LINES))
        assert message.startswith(f"{path} is damaged (") and message.endswith("); copy it again")

    def test_parquet_gives_the_same_documents(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.table({"id": [0, 1, 2, 3], "body": TEXTS}), path)
        assert list(documents(path, "body")) == TEXTS
        assert read_refused(path, "text") == f"{path} has no column 'text'; it has id, body"
        assert read_refused(path, "id") == (
            f"the column 'id' of {path} has 0 where a text was expected"
        )
        message = read_refused(write(path, path.read_bytes()[:-5]))
        assert message.startswith(f"{path} is not a whole parquet file (")
        assert message.endswith("); copy it again")

    @pytest.mark.parametrize(
        "name, package", [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")]
    )
    def test_missing_library_is_named(self, tmp_path, monkeypatch, name, package):
        def absent(name):
            raise ModuleNotFoundError(name)

        monkeypatch.setattr(text_files, "import_module", absent)
        path = write(tmp_path / name, LINES)
        assert read_refused(path) == (
            f"{path} needs the package {package}, which is not installed; run `pip install "
            f"{package}`, or convert the file to .jsonl"
        )
