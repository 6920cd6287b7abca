"""Tests of `python -m dyt run`: unchanged scripts with the norms of their networks replaced."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dyt.__main__ import _alpha0_at, _parser, _split, main

from ..processes import run_code

SCRIPT = """
import copy, sys
import torch
from torch import nn
from torch.nn import LayerNorm
from helper import WIDTH

class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(width))
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, WIDTH), LayerNorm(WIDTH), nn.Dropout(0.1))
        self.norm, self.head = RMSNorm(WIDTH), nn.Linear(WIDTH, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1, 1)
    def forward(self, x):
        return self.head(self.norm(x + self.net(x)))

torch.manual_seed(0)
model = Net()
if "--by-hand" in sys.argv:
    import dyt
    dyt.convert(model, dyt.Norm.dyt(0.7))
ema = copy.deepcopy(model)
decay = [p for p in model.parameters() if p.ndim > 1]
rest = [p for p in model.parameters() if p.ndim <= 1]
optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=0.01)
for step in range(5):
    x = torch.randn(4, WIDTH)
    loss = (model(x) - x[:, :1]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for a, b in zip(ema.parameters(), model.parameters()):
        a.data.lerp_(b.data, 0.1)
    print("loss", loss.item().hex(), flush=True)
print("ema", sum(p.double().sum() for p in ema.parameters()).item().hex())
print("argv", sys.argv[1:], "main", __name__)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return the path of a script, in a folder of its own next to a module that it imports."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "helper.py").write_text("WIDTH = 8\n")
    file = folder / "train.py"
    file.write_text(SCRIPT)
    yield file
    sys.modules.pop("helper", None)


def plain(script, *arguments):
    """Return what the script prints without dyt."""
    code = f"import runpy, sys; sys.argv = {[str(script), *arguments]}; "
    code += f"sys.path[0] = {str(script.parent)!r}; "
    return run_code(code + f"runpy.run_path({str(script)!r}, run_name='__main__')")


def run(*arguments, capsys):
    """Return the exit status and what is printed."""
    capsys.readouterr()
    status = main(["run", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_run_own_is_bit_identical_to_the_script(script, capsys, tmp_path):
    status, out, err = run("--norm", "own", "--", script, "--epochs", "1", capsys=capsys)
    assert status == 0
    assert out == plain(script, "--epochs", "1")
    assert "argv ['--epochs', '1'] main __main__" in out
    file = tmp_path / "dyt-replaced.json"
    line = f"dyt: own: 2 norm layers found, none replaced (Net 2); paths in {file}"
    assert err.splitlines()[0] == line


def test_run_dyt_is_bit_identical_to_conversion_by_hand(script, capsys, tmp_path):
    status, out, err = run(
        *("--norm", "dyt", "--alpha0", "0.7", "--report", "r.json", "--", script), capsys=capsys
    )
    assert status == 0
    by_hand = plain(script, "--by-hand")
    assert out.splitlines()[:6] == by_hand.splitlines()[:6]
    assert out.splitlines()[0] != plain(script).splitlines()[0]
    assert err.startswith("dyt: DyT(α0=0.7): 2 norm layers replaced (Net 2)")
    (network,) = json.loads((tmp_path / "r.json").read_text())["networks"]
    assert [row["path"] for row in network["replacements"]] == ["net.1", "norm"]


def test_run_module_skip_also_and_alpha0_at(script, capsys, monkeypatch):
    monkeypatch.chdir(script.parent)
    (script.parent / "package").mkdir()
    (script.parent / "package" / "train.py").write_text(SCRIPT + "print(model.norm, argv := 1)\n")
    options = ("--skip", "net.1", "--alpha0-at", "norm=0.25", "--also", "RMSNorm")
    status, out, err = run(*options, "-m", "package.train", "--lr", "1", capsys=capsys)
    assert status == 0
    assert "argv ['--lr', '1']" in out
    assert "DyTRMSNorm(8, alpha0=0.25, bias=False)" in out
    assert "1 norm layer replaced (Net 1)" in err
    assert "kept by skip: 1 × LayerNorm" in err


def test_run_imports_modules_first(script, capsys):
    (script.parent / "old_names.py").write_text("import torch\ntorch.old_name = 3\n")
    script.write_text("import torch\nprint(torch.old_name)\n" + SCRIPT)
    sys.path.insert(0, str(script.parent))
    try:
        status, out, _ = run("--import", "old_names", "--", script, capsys=capsys)
    finally:
        del torch.old_name
        sys.modules.pop("old_names")
    assert status == 0
    assert out.startswith("3\n")


def test_run_keeps_the_exit_status_of_the_script(script, capsys):
    script.write_text(SCRIPT + "sys.exit(3)\n")
    with pytest.raises(SystemExit) as ending:
        run("--", script, capsys=capsys)
    assert ending.value.code == 3
    script.write_text(SCRIPT + "sys.exit(0)\n")
    with pytest.raises(SystemExit) as ending:
        run("--", script, capsys=capsys)
    assert not ending.value.code


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("print('done')", (), "nothing was replaced"),
        ("raise SystemExit", (), "nothing was replaced"),
        (SCRIPT, ("--skip", "nrom"), "skip has 'nrom', which matches nothing in Net"),
        (SCRIPT, ("--also", "GroupNorm"), "also has 'GroupNorm', which matches nothing in Net"),
        (SCRIPT, ("--alpha0", "-1"), "alpha0"),
        (SCRIPT, ("--norm", "own", "--alpha0-at", "norm=1"), "own norms have no α0"),
        (SCRIPT, ("--skip", ""), "skip has '' where a glob"),
        (SCRIPT, ("--import", "nosuch"), "No module named 'nosuch'"),
        (SCRIPT, ("--alpha0-at", "norm"), "--alpha0-at 'norm' is not of the form GLOB=ALPHA0"),
    ],
)
def test_run_refuses(script, capsys, text, options, message):
    script.write_text(text)
    status, _, err = run(*options, "--", script, capsys=capsys)
    assert status == 2
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert line.startswith("dyt: error: ")
    assert message in line


def test_run_options_have_defaults():
    assert vars(_parser().parse_args(["run"])) == {
        "command": "run",
        "norm": "dyt",
        "alpha0": 0.5,
        "alpha0_at": [],
        "skip": [],
        "also": [],
        "imports": [],
        "report": "dyt-replaced.json",
    }


@pytest.mark.parametrize(
    ("words", "options", "command"),
    [
        (["run", "--", "a.py", "--", "-m"], ["run"], ["a.py", "--", "-m"]),
        (
            ["run", "--skip", "x", "-m", "a.b", "--lr"],
            ["run", "--skip", "x"],
            ["-m", "a.b", "--lr"],
        ),
        (["build"], ["build"], []),
    ],
)
def test_words_after_two_dashes_or_m_are_the_command(words, options, command):
    assert _split(words) == (options, command)


def test_alpha0_at_splits_at_the_last_equals_sign():
    assert _alpha0_at(["*.norm=0.8", "a=b=2"]) == [("*.norm", 0.8), ("a=b", 2.0)]


def test_run_without_a_script_or_with_a_missing_one(script, capsys):
    assert "no script was given" in run(capsys=capsys)[2]
    status, _, err = run("--", "missing.py", capsys=capsys)
    assert status == 2
    assert "no script 'missing.py' in" in err


@pytest.mark.slow
def test_run_under_torchrun_equals_conversion_by_hand(script, tmp_path):
    text = SCRIPT.replace(
        "ema = copy.deepcopy(model)",
        "torch.distributed.init_process_group('gloo')\n"
        "rank = torch.distributed.get_rank()\n"
        "torch.manual_seed(rank)\n"
        "inner = model\n"
        "model = torch.compile(nn.parallel.DistributedDataParallel(model), backend='eager')\n"
        "ema = copy.deepcopy(inner)",
    )
    # One process prints, because lines of two can mix.
    for output in ("loss", "ema", "argv"):
        text = text.replace(f'print("{output}"', f'rank or print("{output}"')
    script.write_text(text)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def losses(*command):
        done = subprocess.run(
            [*torchrun, *map(str, command)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith("loss")], done.stderr

    by_hand, _ = losses(script, "--by-hand")
    replaced, err = losses("-m", "dyt", "run", "--alpha0", "0.7", "--", script)
    assert replaced == by_hand
    assert len(replaced) == 5
    assert err.count("2 norm layers replaced") == 1
    assert (Path.cwd() / "dyt-replaced.json").exists()
