"""tools/pip_install.py: which of a user's settings of pip reach ``make setup``."""

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "pip_install.py"
TINY = """
Metadata-Version: 2.1
Name: tiny-example
Version: 1.0
"""


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
    """Return a folder with the wheel of a package that no index has."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tiny_example-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_example-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", TINY.lstrip())
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return folder


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
