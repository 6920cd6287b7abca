"""tools/pip_install.py: which of a user's settings of pip reach ``make setup``."""

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "pip_install.py"
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL))


def test_settings_keep_where_packages_come_from(tool):
    listed = (
        ":env:.cert='/etc/ca.crt'\n:env:.config-file='/dev/null'\n:env:.user='1'\n"
        "global.cert='/other.crt'\nglobal.constraint='c.txt'\n"
        "global.extra-index-url='file:///a\\nfile:///b'\nglobal.index-url='https://a/simple?x=1'\n"
        "install.index-url='https://b/simple'\ninstall.target='/t'\ndownload.proxy='p'\n"
    )
    assert tool["settings"](listed) == {
        "cert": "/etc/ca.crt",
        "extra-index-url": "file:///a\nfile:///b",
        "index-url": "https://b/simple",
    }


def test_environment_replaces_all_settings_of_pip(tool):
    environ = {"PIP_USER": "1", "PIP_CONFIG_FILE": "/x", "HTTPS_PROXY": "p", "PIP_INDEX_URL": "a"}
    assert tool["environment"](environ, {"index-url": "b"}) == {
        "HTTPS_PROXY": "p",
        "PIP_INDEX_URL": "b",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CONSTRAINT": "requirements.lock",
        "PIP_BUILD_CONSTRAINT": "requirements.lock",
    }


def test_no_build_constraint_without_build_isolation(tool):
    """pip 25.3 and later refuse the two together."""
    without = tool["environment"]({}, {}, isolated=False)
    assert without == {"PIP_CONSTRAINT": "requirements.lock", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture
def wheels(tmp_path):
    """Return a folder with wheels of tiny-example, which no index has, and of tqdm 1.0."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("tiny-example", "tqdm"):
        write_wheel(folder, name)
    return folder


def write_wheel(folder, name):
    """Write a wheel without files, of version 1.0."""
    stem = name.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", METADATA.format(name=name))
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def run_offline(*arguments, wheels):
    """Run the tool with a folder of wheels in place of an index."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], env=environ, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "setting",
    ["user = true", "constraint = /missing.txt", "no-binary = :all:"],
    ids=["user", "constraint", "no-binary"],
)
def test_pip_install_ignores_settings_that_break_pip(tmp_path, wheels, setting):
    config = tmp_path / "pip.conf"
    config.write_text(
        f"[global]\nno-index = true\nfind-links = {wheels}\n{setting}\n", encoding="utf-8"
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environ["PIP_CONFIG_FILE"] = str(config)
    arguments = ["--dry-run", "--no-deps", "tiny-example==1.0"]

    def run(*command):
        return subprocess.run(
            [sys.executable, *command, *arguments], env=environ, capture_output=True, text=True
        )

    assert run("-m", "pip", "install").returncode, "this setting breaks pip"
    process = run(str(TOOL))
    assert (process.returncode, process.stderr) == (0, "")


def test_pip_install_prints_no_line_per_missing_folder(tmp_path, wheels):
    missing = tmp_path / "simple"
    missing.mkdir()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environ |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": missing.as_uri(),
        "PIP_FIND_LINKS": str(wheels),
    }
    arguments = ["--dry-run", "--no-deps", "tiny-example==1.0"]
    process = subprocess.run(
        [sys.executable, TOOL, *arguments], env=environ, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_pip_install_returns_the_error_of_pip(tmp_path):
    process = subprocess.run(
        [sys.executable, TOOL, "--no-index", "--dry-run", "no-such-package-of-anybody"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "ERROR: No matching distribution found" in process.stderr


def test_pip_install_unpinned_leaves_the_lock_out(wheels):
    """The lock has another version of tqdm."""
    arguments = ("--dry-run", "--no-deps", "--ignore-installed", "tqdm==1.0")
    pinned = run_offline(*arguments, wheels=wheels)
    assert pinned.returncode == 1
    assert "tqdm==1.0" in pinned.stderr
    unpinned = run_offline("--unpinned", *arguments, wheels=wheels)
    assert (unpinned.returncode, unpinned.stderr) == (0, "")


def test_pip_install_wheel_writes_a_wheel_and_installs_nothing(tmp_path, wheels):
    output = tmp_path / "dist"
    arguments = ("wheel", "--no-deps", "--wheel-dir", output, "tiny-example")
    process = run_offline(*arguments, wheels=wheels)
    assert (process.returncode, process.stderr) == (0, "")
    assert [file.name for file in output.iterdir()] == ["tiny_example-1.0-py3-none-any.whl"]
    found = subprocess.run(
        [sys.executable, "-m", "pip", "show", "tiny-example"], capture_output=True
    )
    assert found.returncode == 1
