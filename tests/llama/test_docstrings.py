"""Docstrings as a text: cleaning, order, versions, changed files, and the pinned checksum."""

import hashlib

import pytest

from dyt_llama import docstrings, sources

from ..messages import refused

MODULE = '''"""A module.

    It is indented.
"""

class Thing:
    "A thing."

    async def method(self):
        """Tab:\\tand a surrogate \\ud800."""

def same():
    "A thing."

def none():
    x = "not a docstring"
    return x
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a distribution "fake" 1.0 with the module above; return its folder."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "module.py").write_text(MODULE)
    (folder / "stray.py").write_text('"""Not in the list of files."""')
    info = tmp_path / "fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1.0+local\n")
    (info / "RECORD").write_text("fake/module.py,,\nfake/data.txt,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(docstrings, "PACKAGES", {"fake": "1.0"})
    monkeypatch.setattr(docstrings, "version_refusal", lambda: "")
    docstrings.docstrings.cache_clear()
    yield folder
    docstrings.docstrings.cache_clear()


def test_docstrings_are_those_of_listed_modules_classes_and_functions(package):
    assert sorted(docstrings.read_package("fake")) == [
        "A module.\n\nIt is indented.",
        "A thing.",
        "A thing.",
        "Tab:    and a surrogate \ud800.",
    ]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("One line. ", "One line."),
        ("\n    First.\n\n        More. \n    ", "First.\n\n    More."),
        ("First.\n\tTab.\n\t  Two more.", "First.\nTab.\n  Two more."),
    ],
)
def test_docstrings_lose_their_indentation(text, clean):
    assert docstrings.without_indentation(text) == clean


def test_documents_are_distinct_and_in_the_order_of_their_hashes():
    texts = [f"text {i}" for i in range(50)]
    documents = docstrings.sort_documents([*texts, "", "\ud800", *texts])
    assert sorted(documents) == sorted(texts) and documents != tuple(texts)
    assert docstrings.sort_documents(reversed(texts)) == documents


def test_docstrings_refuse_changed_files(package, monkeypatch):
    expected = docstrings.sort_documents(["A module.\n\nIt is indented.", "A thing."])
    assert refused(docstrings.docstrings) == (
        f"the docstrings of fake have the SHA-256 {docstrings.digest_of(expected)}, not "
        f"{docstrings.SHA256}: a file of theirs is missing or changed; install these packages again"
    )
    monkeypatch.setattr(docstrings, "SHA256", docstrings.digest_of(expected))
    assert docstrings.docstrings() == expected


def test_docstrings_refuse_files_that_are_not_python(package):
    (package / "module.py").write_text("def broken(:")
    message = refused(lambda: list(docstrings.read_package("fake")))
    assert message.startswith(f"{package / 'module.py'} cannot be read (")
    assert message.endswith("); install its package again")
    (package / "module.py").unlink()
    with pytest.raises(ValueError, match=r"module\.py cannot be read"):
        list(docstrings.read_package("fake"))


def test_docstrings_refuse_a_package_without_a_list_of_files(package):
    (package.parent / "fake-1.0.dist-info/RECORD").unlink()
    assert refused(lambda: list(docstrings.read_package("fake"))) == (
        "fake is installed without a list of its files; install it again"
    )


def test_docstrings_of_other_versions_are_refused(package, monkeypatch):
    monkeypatch.setattr(docstrings, "version_refusal", lambda: "another version")
    assert refused(docstrings.docstrings) == "another version"


def test_digest_of_documents_ends_each_with_a_zero_byte():
    expected = hashlib.sha256("a\0ü\0".encode()).hexdigest()
    assert docstrings.digest_of(["a", "ü"]) == expected


def test_docstrings_name_packages_of_other_versions():
    refusal = docstrings.version_refusal
    assert refusal() == sources.DOCSTRINGS.refusal == ""
    torch = docstrings.PACKAGES["torch"]
    assert refusal({"torch": "1.0", "no-such-package": "2.0"}) == (
        "the text of docstrings is that of torch 1.0, no-such-package 2.0, and this environment "
        f"has torch {torch}, no-such-package not installed; `make setup` installs the versions of "
        "requirements.lock"
    )


@pytest.mark.slow
def test_docstrings_of_the_lock_have_the_pinned_checksum():
    documents = docstrings.docstrings()
    assert len(documents) == 42_023
    assert sum(map(len, documents)) == 24_371_381
