"""Checkouts of upstreams: their commit, uncommitted changes, and missing scripts."""

import subprocess

import pytest

from dyt_upstream import checkout as checkouts
from dyt_upstream import miniature
from dyt_upstream.checkout import Checkout, check_checkout, open_checkout
from dyt_upstream.upstreams import UPSTREAMS


def head(folder):
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_open_checkout_of_the_expected_commit_has_no_warning(checkout):
    folder = checkout("text")
    (folder / "new.txt").touch()  # neither a change nor worth a warning
    commit = head(folder)
    expected = Checkout(path=folder, commit=commit, changed=(), warnings=())
    assert open_checkout("own", {"upstream.own": folder}, commit) == expected
    assert open_checkout("own", {"upstream.own": folder}, "") == expected


def test_open_checkout_warns_of_another_commit_and_of_changed_files(checkout):
    folder = checkout("text")
    for name in ("train.py", "train.py.orig"):
        (folder / name).write_text("changed")
    commit = head(folder)
    assert open_checkout("own", {"upstream.own": folder}, "0123456789abcdef") == Checkout(
        path=folder,
        commit=commit,
        changed=("train.py",),
        warnings=(
            f"own: the checkout is at commit {commit[:12]}, not 0123456789ab as in the recipe",
            "own: uncommitted changes in train.py",
        ),
    )


@pytest.mark.parametrize("git_is_installed", [True, False])
def test_open_checkout_without_git_has_no_commit(checkout, monkeypatch, git_is_installed):
    """A copy in a folder of another repository has not that repository's commit."""
    folder = checkout("text")
    if git_is_installed:
        folder = folder / "copy"
        folder.mkdir()
    else:

        def run(*arguments, **options):
            raise FileNotFoundError("git")

        monkeypatch.setattr(checkouts.subprocess, "run", run)
    assert open_checkout("own", {"upstream.own": folder}, "0" * 40) == Checkout(
        path=folder,
        commit=None,
        changed=(),
        warnings=("own: the checkout is not a git repository, its commit is unknown",),
    )


def test_open_checkout_of_the_miniature_is_in_this_package():
    (folder,) = miniature.__path__
    found = open_checkout("miniature", {}, "0" * 40)
    assert str(found.path) == folder and (found.path / "train.py").is_file()
    assert (found.commit, found.changed, found.warnings) == (None, (), ())


@pytest.mark.parametrize(
    ("upstream", "files"),
    [
        ("mae", ("main_pretrain.py", "main_finetune.py")),
        ("fairseq", ("fairseq_cli/hydra_train.py",)),
        ("caduceus", ("train.py",)),
    ],
)
def test_check_checkout_requires_every_script(tmp_path, upstream, files):
    place = f"clone https://github.com/{UPSTREAMS[upstream].repository} there"
    with pytest.raises(ValueError) as refusal:
        check_checkout(upstream, tmp_path / "none")
    assert str(refusal.value) == f"{tmp_path / 'none'} is not a folder; {place}"
    for file in files:
        with pytest.raises(ValueError) as refusal:
            check_checkout(upstream, tmp_path)
        assert str(refusal.value) == (
            f"{tmp_path} is not a checkout of {UPSTREAMS[upstream].repository}: it has no {file}; "
            f"{place}"
        )
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    check_checkout(upstream, tmp_path)
