"""Scripts and modules run as `__main__`, with the arguments and paths of the command `python`."""

import sys
from pathlib import Path

import pytest

from dyt.script_runner import ScriptError, run_as_main

SCRIPT = "import sys\nsys.modules['seen'] = (__name__, [*sys.argv], sys.path[0], __file__)\n"
AS_MAIN = "sys.modules['main'] = sys.modules['__main__'].__file__\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a script, which is also a module; what they see is restored afterwards."""
    monkeypatch.setattr(sys, "argv", ["python -m dyt"])
    monkeypatch.setattr(sys, "path", ["first", *sys.path])
    for name in ("seen", "main"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "train.py").write_text(SCRIPT + AS_MAIN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("seen", "main"):
        sys.modules.pop(name, None)


def test_script_has_its_folder_first_on_the_path(folder):
    run_as_main(["part/train.py", "--lr", "1"])
    file = str(Path("part/train.py"))
    assert sys.modules["seen"] == ("__main__", [file, "--lr", "1"], str(folder / "part"), file)


def test_module_has_the_current_folder_first_on_the_path(folder):
    run_as_main(["-m", "part.train", "--lr", "1"])
    file = str(folder / "part" / "train.py")
    assert sys.modules["seen"] == ("__main__", [file, "--lr", "1"], str(folder), file)
    assert sys.modules["main"] == file, "as pickle and torch.multiprocessing need it"


@pytest.mark.parametrize("command", [[], ["-m"]])
def test_command_without_a_script_is_refused(command):
    with pytest.raises(ScriptError) as error:
        run_as_main(command)
    assert str(error.value) == (
        "no script was given; put it after --, as in -- train.py --epochs 1"
    )


def test_missing_script_is_named_with_the_folder(folder):
    with pytest.raises(ScriptError) as error:
        run_as_main(["train.py"])
    assert str(error.value) == f"no script 'train.py' in {folder}"
