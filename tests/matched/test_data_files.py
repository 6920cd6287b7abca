"""Files of data sets: what is passed over, links, unreadable folders, pointers."""

import os

import pytest

from matched import data_files
from matched.data_files import (
    find_file,
    is_system_name,
    list_entries,
    list_files,
    list_folders,
    list_loose_files,
    pointer_fault,
)

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 334643268\n"
ANNEX = "/annex/objects/SHA256E-s334643268--4d7a.safetensors\n"
ANNEX_LINK = "../.git/annex/objects/Zx/9q/SHA256E-s1--4d7a/SHA256E-s1--4d7a"
DOWNLOAD = {
    "git-lfs": "`git lfs pull` in its repository",
    "git-annex": "`git annex get` on it in its repository",
}
SYSTEM_FOLDERS = (".ipynb_checkpoints", "@eaDir", "lost+found", "__MACOSX", "$RECYCLE.BIN", ".git")
SYSTEM_FILES = ("._1.JPEG", ".DS_Store", "Thumbs.db", ".hidden.jpeg", "desktop.ini")


def write(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def below(root, suffixes=(".jpeg",)):
    """Return the paths of ``list_files`` relative to the root."""
    return [os.path.relpath(path, root) for path in list_files(root, suffixes)]


@pytest.fixture
def root(tmp_path):
    """A folder of four images, in a folder whose own name is hidden."""
    root = tmp_path / ".cache" / "set"
    for name in ("a/1.JPEG", "a/2.jpeg", "a/deep/er/3.jpeg", "b/4.jpeg"):
        write(root / name)
    return root


@pytest.fixture
def refused_folder(monkeypatch):
    """Function that makes a folder unreadable, also for the superuser."""
    refused = set()
    scandir = os.scandir

    def scan(folder):
        if os.path.realpath(folder) in refused:
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scandir(folder)

    monkeypatch.setattr(data_files.os, "scandir", scan)
    return lambda folder: refused.add(os.path.realpath(folder))


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_list_files_passes_over_system_folders(root, name):
    expected = below(root)
    for place in (root, root / "a"):
        write(place / name / "9.jpeg")
        write(place / name / "more" / "9.jpeg")
    assert below(root) == expected == ["a/1.JPEG", "a/2.jpeg", "a/deep/er/3.jpeg", "b/4.jpeg"]
    assert list_folders(root) == ["a", "b"]


@pytest.mark.parametrize("name", SYSTEM_FILES)
def test_list_entries_passes_over_system_files(root, name):
    write(root / "a" / name)
    assert [entry.name for entry in list_entries(root / "a")] == ["1.JPEG", "2.jpeg", "deep"]
    assert not data_files.is_empty(root / "a")
    write(root / "c" / name)
    assert data_files.is_empty(root / "c")


def test_list_loose_files_are_all_but_folders(root):
    """A link to a folder is one; a link that leads nowhere, or to itself, is not."""
    write(root / "z.txt")
    write(root / "A.jpeg")
    write(root / ".hidden")
    for name, target in (("folder", "a"), ("nowhere", "none"), ("loop", "loop")):
        (root / name).symlink_to(target)
    assert list_folders(root) == ["a", "b", "folder"]
    assert list_loose_files(root) == ["A.jpeg", "loop", "nowhere", "z.txt"]


def test_entries_that_cannot_be_examined_are_errors(root, monkeypatch):
    """As a link into a folder of another user; or a disk that fails."""

    class Entry:
        path = "a/b"

        def is_dir(self):
            raise error

    error = PermissionError(13, "Permission denied")
    with pytest.raises(ValueError, match=r"^a/b cannot be read \(Permission denied\); every "):
        data_files._is_folder(Entry())
    error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output error"):
        data_files._is_folder(Entry())
    monkeypatch.setattr(data_files.Path, "stat", Entry.is_dir)
    with pytest.raises(OSError, match="Input/output error"):
        pointer_fault(root / "a" / "1.JPEG")


def test_list_files_orders_as_sorted_os_walk(root):
    for name in ("a/deep/0.jpeg", "a/deep-1/0.jpeg", "a/B/0.jpeg", "a/b.jpeg", "10/1.jpeg"):
        write(root / name)
    walked = [
        os.path.join(folder, name)
        for folder, _, names in sorted(os.walk(root))
        for name in sorted(names)
    ]
    assert list_files(root, (".jpeg",)) == walked and len(walked) == 9


def test_list_files_refuses_an_unreadable_folder(root, refused_folder):
    refused_folder(root / "a" / "deep")
    with pytest.raises(ValueError) as refusal:
        list_files(root, (".jpeg",))
    assert str(refusal.value) == (
        f"{root}/a/deep cannot be read (Permission denied); every folder of a data set has to be "
        "readable: change its permissions, or move it out of the data set"
    )


@pytest.mark.parametrize("target", [".", "..", "../..", "a"])
def test_list_files_lists_each_file_once_despite_links_up(root, target):
    expected = below(root)
    write(root.parent / "sibling" / "0.jpeg")
    (root / "a" / "deep" / "up").symlink_to(root / target)
    (root / "0-first").symlink_to("a")
    assert below(root) == expected


def test_list_files_follows_links_out_of_the_folder(root, tmp_path):
    expected = below(root)
    write(tmp_path / "elsewhere" / "x" / "5.jpeg")
    (root / "b" / "x").symlink_to(tmp_path / "elsewhere" / "x")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    assert below(root) == [*expected, "b/x/5.jpeg"]


def test_list_files_lists_linked_files_unless_listed_anyway(root, tmp_path):
    expected = below(root)
    write(tmp_path / "store" / "4d7a")
    (root / "a" / "0.jpeg").symlink_to(root / "b" / "4.jpeg")
    (root / "b" / "5.jpeg").symlink_to(tmp_path / "store" / "4d7a")
    (root / "b" / "6.jpeg").symlink_to(tmp_path / "store" / "4d7a")
    (root / "b" / "7.jpeg").symlink_to("7.jpeg")
    (root / "b" / "8.jpeg").symlink_to("nowhere")
    assert below(root) == [*expected, *(f"b/{i}.jpeg" for i in range(5, 9))]


@pytest.mark.parametrize(
    "text, tool",
    [(LFS, "git-lfs"), (ANNEX, "git-annex"), (ANNEX_LINK, "git-annex")],
    ids=["git-lfs", "git-annex", "git-annex link as text"],
)
def test_pointer_fault_names_the_tool(tmp_path, text, tool):
    file = write(tmp_path / "weights.pth", text)
    expected = f"is a pointer of {tool}, not the file itself; run {DOWNLOAD[tool]}"
    assert pointer_fault(file) == expected
    with pytest.raises(ValueError, match=f"^{file} is a pointer of {tool}"):
        data_files.refuse_pointers([write(tmp_path / "whole"), file])


def test_pointer_fault_recognizes_a_dangling_annex_link(tmp_path):
    file = tmp_path / "weights.pth"
    file.symlink_to(ANNEX_LINK)
    assert pointer_fault(file).startswith("is a pointer of git-annex")
    file.unlink()
    file.symlink_to("nowhere")
    assert pointer_fault(file) == ""


def test_pointer_fault_names_a_loop_of_links(tmp_path):
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    first.symlink_to("b.pth")
    second.symlink_to("a.pth")
    assert pointer_fault(first) == (
        "is a symbolic link that leads back to itself; delete it, or restore its target"
    )
    with pytest.raises(ValueError, match=f"^{second} is a symbolic link that leads back"):
        data_files.refuse_pointers([first, second][1:])


@pytest.mark.parametrize("content", [b"", b"x", LFS.encode() * 20, b"\0" * 2000], ids=len)
def test_pointer_fault_accepts_other_content(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert pointer_fault(tmp_path / "file") == ""
    assert pointer_fault(tmp_path / "missing") == pointer_fault(tmp_path) == ""


def test_pointer_fault_accepts_a_folder_of_any_size(tmp_path, monkeypatch):
    """Some file systems give it a few bytes, others as many as a large file."""
    for limit in (1, 1 << 40):
        monkeypatch.setattr(data_files, "MAX_POINTER_BYTES", limit)
        assert pointer_fault(tmp_path) == ""


def test_refuse_pointers_checks_files_spread_over_all(tmp_path):
    """The first ones may be whole while a later folder was never downloaded."""
    files = [write(tmp_path / f"{number:03d}") for number in range(100)]
    for file in files[50:]:
        file.write_text(LFS, encoding="utf-8")
    with pytest.raises(ValueError, match="is a pointer of git-lfs"):
        data_files.refuse_pointers(files, most=10)
    data_files.refuse_pointers(files[:50], most=10)


@pytest.mark.parametrize(
    ("count", "most", "checked"),
    [(10, 10, range(10)), (11, 10, range(0, 11, 2)), (100, 10, range(0, 100, 10)), (0, 10, ())],
)
def test_refuse_pointers_checks_at_most_that_many_files(monkeypatch, count, most, checked):
    files = []
    monkeypatch.setattr(data_files, "refuse_pointer", files.append)
    data_files.refuse_pointers(list(range(count)), most=most)
    assert files == list(checked)


@pytest.mark.parametrize(
    ("name", "system"),
    [
        (".hidden", True),
        ("._1.JPEG", True),
        ("Thumbs.db", True),
        ("THUMBS.DB", True),
        ("lost+found", True),
        ("n01440764", False),
        ("thumbs", False),
        ("a.hidden", False),
    ],
)
def test_is_system_name_ignores_case(name, system):
    assert is_system_name(name) == system


@pytest.mark.parametrize(("size", "is_pointer"), [(1023, True), (1024, False)])
def test_pointers_are_smaller_than_a_kilobyte(tmp_path, size, is_pointer):
    start = b"version https://git-lfs.github.com/spec/v1\n"
    (tmp_path / "file").write_bytes(start + b"x" * (size - len(start)))
    assert bool(pointer_fault(tmp_path / "file")) == is_pointer


def test_find_file_takes_a_file_or_a_folders_first_name(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"none of the files a\.pt, b\.pt; expected weights$"):
        find_file(folder, ("a.pt", "b.pt"), "weights")
    (folder / "b.pt").touch()
    assert find_file(folder, ("a.pt", "b.pt"), "weights") == folder / "b.pt"
    assert find_file(folder / "b.pt", ("a.pt",), "weights") == folder / "b.pt"
    (folder / "a.pt").mkdir()
    for path in (folder, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"there is no file .*; expected weights$"):
            find_file(path, ("a.pt", "b.pt"), "weights")
    (folder / "b.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="is a pointer of git-lfs"):
        find_file(folder / "b.pt", (), "weights")
