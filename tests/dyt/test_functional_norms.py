"""Calls of functional norms found in source text: imports, scopes, and where they are searched."""

import sys
import sysconfig
from textwrap import dedent
from types import ModuleType

import pytest
from torch import nn

from dyt import functional_norms
from dyt.functional_norms import functional_norm_calls


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch.layer_norm(x, s)", [("", 2, "torch.layer_norm")]),
        ("import torch.nn\ntorch.rms_norm(x, s)", [("", 2, "torch.rms_norm")]),
        (
            "import torch.nn.functional as F\nF.layer_norm(x, s)",
            [("", 2, "F.layer_norm")],
        ),
        (
            "import torch.nn.functional\ntorch.nn.functional.rms_norm(x, s)",
            [("", 2, "torch.nn.functional.rms_norm")],
        ),
        ("from torch.nn import functional as f\nf.rms_norm(x)", [("", 2, "f.rms_norm")]),
        (
            "from torch.nn import functional\nfunctional.rms_norm(x)",
            [("", 2, "functional.rms_norm")],
        ),
        (
            "from torch import nn\nnn.functional.layer_norm(x)",
            [("", 2, "nn.functional.layer_norm")],
        ),
        ("from torch import native_layer_norm as n\nn(x)", [("", 2, "n")]),
        ("import torch\ntorch.batch_norm(x)  # layer_norm", []),
        ("import jax as torch\ntorch.layer_norm(x)", []),
        ("from .torch import layer_norm\nlayer_norm(x)", []),
        ("layer_norm(x)", []),
        ("import torch\nsyntax error: torch.layer_norm(x)", []),
        (
            """
            import torch
            class A:
                def f(self):
                    return torch.layer_norm(1)
                class B:
                    async def g(self):
                        torch.rms_norm(torch.layer_norm(2))
            """,
            [
                ("A.f", 5, "torch.layer_norm"),
                ("A.B.g", 8, "torch.rms_norm"),
                ("A.B.g", 8, "torch.layer_norm"),
            ],
        ),
    ],
)
def test_calls_are_found_by_what_names_refer_to(tmp_path, source, found):
    path = tmp_path / "source.py"
    path.write_text(dedent(source))
    assert sorted(functional_norms._calls(str(path), (0, 0))) == sorted(found)


SOURCE = """
import torch
class Norm:
    def forward(self, x): return torch.layer_norm(x)
class Normalized:
    def forward(self, x): return torch.layer_norm(x)
torch.rms_norm(0)
"""


@pytest.fixture(params=["own", "library"])
def module(request, tmp_path, monkeypatch):
    """A module with two classes, in a folder of its own or among installed packages."""
    folder = tmp_path / ("site-packages" if request.param == "library" else "project")
    folder.mkdir()
    path = folder / "searched_module.py"
    path.write_text(SOURCE)
    module = ModuleType("searched_module")
    module.__file__ = str(path)
    for name in ("Norm", "Normalized"):
        setattr(module, name, type(name, (nn.Module,), {"__module__": "searched_module"}))
    only = {module: path}  # search this one alone
    monkeypatch.setattr(functional_norms, "_source", only.get)
    monkeypatch.setitem(sys.modules, "searched_module", module)
    return module, request.param, path


@pytest.mark.parametrize(
    ("used", "replaced", "own", "library"),
    [
        ([], [], [4, 6, 7], []),
        (["Norm"], [], [4, 6, 7], [4]),
        (["Norm", "Normalized"], [], [4, 6, 7], [4, 6]),
        (["Norm", "Normalized"], ["Norm"], [6, 7], [6]),
        (["Norm"], ["Norm"], [6, 7], []),
    ],
)
def test_libraries_are_searched_in_used_classes_alone(module, used, replaced, own, library):
    module, place, path = module
    kinds = [[getattr(module, name) for name in names] for names in (used, replaced)]
    lines = own if place == "own" else library
    names = {7: "torch.rms_norm"}
    assert functional_norm_calls(*kinds) == [
        f"{path}:{line} ({names.get(line, 'torch.layer_norm')})" for line in lines
    ]


@pytest.mark.parametrize(
    "content", [b"import torch\ntorch.layer_norm(x)\0", b"# layer_norm \xff\n", None]
)
def test_file_that_cannot_be_read_has_no_calls(tmp_path, content):
    path = tmp_path / "source.py"
    if content is not None:
        path.write_bytes(content)
    assert functional_norms._calls(str(path), functional_norms._last_change(str(path))) == ()


def test_last_change_of_a_missing_file_is_zero(tmp_path):
    assert functional_norms._last_change(str(tmp_path / "none.py")) == (0, 0)


@pytest.mark.parametrize(
    ("folder", "library"),
    [
        ("/venv/lib/site-packages/timm/layers", True),
        ("/usr/lib/python3/dist-packages", True),
        (sysconfig.get_paths()["stdlib"] + "/json", True),
        ("/home/me/packages/project", False),
    ],
)
def test_folders_of_installed_packages_are_libraries(folder, library):
    assert functional_norms._is_library(folder) == library
