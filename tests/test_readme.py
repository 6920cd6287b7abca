"""README: its Python code runs, and its make targets, commands and site keys exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_readme_python_code_runs():
    code = blocks("python")
    assert code
    for block in code:
        exec(compile(block, "README.md", "exec"), {})


def test_readme_make_targets_exist():
    targets = set(re.findall(r"make ([a-z][a-z0-9-]*)", README))
    assert {"demo", "test", "table1", "status"} <= targets
    # -n prints the commands without running them, and fails if a target does not exist.
    command = ["make", "-n", *sorted(targets)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_readme_site_example_is_accepted(tmp_path):
    from matched import site

    (tmp_path / "site.toml").write_text(blocks("toml")[0], encoding="utf-8")
    assert site.read(tmp_path / "site.toml").slurm.account == "my-account"


@pytest.mark.parametrize("command", re.findall(r"^\| `matched (\w+)", README, flags=re.M))
def test_readme_commands_exist(command):
    from matched.cli import main

    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0


def test_make_computes_every_table_that_is_named():
    """A pattern rule with two targets would compute the first one only."""
    command = ["make", "-n", "table1", "iclr-table1"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    for table in ("table1", "iclr-table1"):
        assert f"matched submit {table} --scale smoke" in output
