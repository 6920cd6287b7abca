"""Provenance: versions and hardware, git's environment and errors, files that are kept."""

import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from matched import provenance


def failing_git(monkeypatch, stderr):
    process = subprocess.CompletedProcess([], 128, b"", stderr.encode())
    monkeypatch.setattr(provenance, "_run_git", lambda *arguments, **options: process)


@pytest.mark.parametrize(
    ("stderr", "problem"),
    [
        ("warning: slow\nfatal: bad object\nhint\n", "git cannot use /r (bad object); use a clone"),
        ("no such option\n", "git cannot use /r (no such option); use a clone"),
        ("", "git cannot use /r (it failed); use a clone"),
    ],
)
def test_problem_with_git_is_its_fatal_line(monkeypatch, stderr, problem):
    failing_git(monkeypatch, stderr)
    assert provenance._head(Path("/r")) == (None, f"{problem} of the repository")


def test_smallest_untracked_files_are_kept_up_to_the_limit(tmp_path):
    sizes = {"a": 6_000_000, "b": 4_000_001, "c": 1, "d": 4_000_000, "e": 1_999_998}
    for name, size in sizes.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    assert provenance._smallest(tmp_path, list(sizes)) == ["c", "e", "d", "b"]
    assert provenance._smallest(tmp_path, ["a", "d"]) == ["d", "a"], "exactly 10 MB"
    assert provenance._smallest(tmp_path, ["a", "b"]) == ["b"]


def test_git_gets_no_variables_that_change_its_output(monkeypatch, tmp_path):
    calls = []

    def run(command, **options):
        calls.append((command, options))
        return subprocess.CompletedProcess(command, 0, b"\xff")

    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name in ("HOME", "GIT_SSH", *GIT_VARIABLES):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(provenance.shutil, "which", lambda name: "/bin/git")
    monkeypatch.setattr(provenance.subprocess, "run", run)
    assert provenance._git(tmp_path, "add", index=Path("/i"), stdin="ä\udcff") == "\udcff"
    assert calls == [
        (
            ["git", "add"],
            {
                "input": b"\xc3\xa4\xff",
                "capture_output": True,
                "cwd": tmp_path,
                "env": {"HOME": "x", "GIT_SSH": "x", "GIT_INDEX_FILE": "/i", "LC_ALL": "C"},
            },
        )
    ]
    provenance._git(tmp_path, "status")
    assert calls[1][1]["input"] == b""
    assert calls[1][1]["env"] == {"HOME": "x", "GIT_SSH": "x", "LC_ALL": "C"}


GIT_VARIABLES = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS"),
    *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS"),
    "GIT_ICASE_PATHSPECS",
)


@pytest.mark.parametrize(
    ("tracked", "copied"),
    [
        (
            "b.py\0gone.py\0sub/deep/a.py\0sub/deep/c.py\0module\0",
            {"b.py", "sub/deep/a.py", "sub/deep/c.py"},
        ),
        (None, set()),
    ],
    ids=["files", "git failed"],
)
def test_copy_of_a_checkout_has_the_files_that_exist(monkeypatch, tmp_path, tracked, copied):
    """Git lists deleted files and submodules as well."""
    root, asked = tmp_path / "root", []
    monkeypatch.setattr(provenance, "_git", lambda *words: asked.append(words) or tracked)
    for name in ("b.py", "sub/deep/a.py", "sub/deep/c.py", "new.py", "ignored.py", "module/x.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}", encoding="utf-8")
    os.utime(root / "b.py", (1000, 1000))
    copy = provenance._copy_files(root, ["new.py"], tmp_path / "submission" / "code")
    assert asked == [(root, "ls-files", "-z")] and copy == tmp_path / "submission" / "code"
    found = {str(path.relative_to(copy)): path for path in copy.rglob("*") if path.is_file()}
    assert found.keys() == {"new.py", *copied}
    assert all(p.read_text(encoding="utf-8") == f"content of {n}" for n, p in found.items())
    if tracked:
        assert found["b.py"].stat().st_mtime == 1000


def test_environment_has_versions_code_and_hardware(monkeypatch):
    monkeypatch.setattr(provenance, "_installed_packages", lambda: {"torch": "2"})
    monkeypatch.setattr(provenance, "_gpu_names", lambda: ["H100", "H100"])
    monkeypatch.setattr(provenance, "commit", lambda: "abc-dirty")
    monkeypatch.setattr(provenance.machine, "cpu_name", lambda: "a CPU")
    monkeypatch.setattr(provenance.machine, "usable_cores", lambda: 3)
    code = {"commit": "abc", "submission": "/s"}
    assert provenance.environment(code) == {
        "python": platform.python_version(),
        "packages": {"torch": "2"},
        "commit": "abc-dirty",
        "submitted": code,
        "source": str(Path(provenance.__file__).parent),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": "a CPU",
        "cores": 3,
        "threads": torch.get_num_threads(),
        "gpus": ["H100", "H100"],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    assert provenance.hardware() == "H100"
    monkeypatch.setattr(provenance, "_gpu_names", lambda: ["H100", "A100", "H100"])
    assert provenance.hardware() == "H100, A100"
    monkeypatch.setattr(provenance, "_gpu_names", list)
    assert provenance.hardware() == "a CPU"


def test_gpus_are_all_that_torch_sees(monkeypatch):
    assert provenance._gpu_names() == [] or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "H100-{}".format)
    assert provenance._gpu_names() == ["H100-0", "H100-1"]


def test_running_commit_is_the_snapshots_or_that_of_the_code(monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: "here")
    snapshot = {"commit": "copied", "snapshot": "/s/code"}
    assert provenance._running_commit(snapshot) == {"commit": "copied"}
    assert provenance._running_commit({"commit": "submitted"}) == {"commit": "here"}
    monkeypatch.setattr(provenance, "commit", lambda: None)
    failing_git(monkeypatch, "fatal: not a repository")
    folder = Path(provenance.__file__).parent
    assert provenance._running_commit({}) == {
        "commit": None,
        "commit_problem": f"git cannot use {folder} (not a repository); use a clone of the "
        "repository",
    }


def test_environment_skips_packages_without_metadata(tmp_path, monkeypatch):
    """An installation that was cut off leaves a folder without METADATA, or with half of it."""
    for name, metadata in {
        "broken-1.0": None,
        "half-1.0": "Metadata-Version: 2.1\n",
        "unversioned-1.0": "Name: unversioned\n",
        "whole-1.0": "Metadata-Version: 2.1\nName: whole\nVersion: 1.0\n",
    }.items():
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        if metadata is not None:
            (folder / "METADATA").write_text(metadata, encoding="utf-8")
    old = tmp_path / "old-2.0.egg-info"
    old.mkdir()
    header = "Metadata-Version: 2.1\nName: old\nVersion: 2.0\n"
    (old / "PKG-INFO").write_text(f"{header}\nVersion: 3.0 is planned\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    packages = provenance.environment({})["packages"]
    assert list(packages) == sorted(packages)
    assert packages["whole"] == "1.0" and packages["submitit"]
    assert packages["old"] == "2.0"
    assert not {None, "broken", "half", "unversioned"} & packages.keys()
