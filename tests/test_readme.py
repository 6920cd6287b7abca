"""The README is the product's front door: its code has to run and its commands have to exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_python_code_runs():
    code = blocks("python")
    assert code
    for block in code:
        exec(compile(block, "README.md", "exec"), {})


def test_make_targets_exist():
    targets = set(re.findall(r"make ([a-z][a-z0-9-]*)", README))
    assert {"demo", "test", "table1", "status"} <= targets
    for target in sorted(targets):
        # -n prints what would be run and fails for a target that does not exist.
        asked = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert asked.returncode == 0, asked.stderr


def test_site_keys_shown_are_those_of_the_example(tmp_path):
    from matched import site

    (tmp_path / "site.toml").write_text(blocks("toml")[0], encoding="utf-8")
    assert site.read(tmp_path / "site.toml").slurm.account == "my-account"


@pytest.mark.parametrize("command", re.findall(r"^\| `matched (\w+)", README, flags=re.M))
def test_commands_exist(command):
    from matched.cli import main

    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
