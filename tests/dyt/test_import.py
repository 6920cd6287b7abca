"""Tests of importing dyt: public names, and no torch for `from dyt import Norm`.

Plans and tables import `Norm` on machines where importing torch is slow or not needed.
"""

import subprocess
import sys

import pytest

import dyt

from ..processes import run_code


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_norm_imports_no_torch():
    heavy = "[m for m in ('torch', 'numpy', 'timm', 'transformers') if m in sys.modules]"
    code = f"import sys, dyt; from dyt import Norm; print(Norm.dyt(0.8), dir(dyt) != [], {heavy})"
    assert run(code) == "DyT(α0=0.8) True []"


def test_importing_layers_imports_only_torch():
    heavy = "[m for m in ('torch', 'timm', 'transformers', 'diffusers') if m in sys.modules]"
    code = f"import sys; from dyt import convert, DyT, scale_embedding; print({heavy})"
    assert run(code) == "['torch']"


def test_public_names_exist_and_are_listed():
    assert {"Norm", "convert", "DyT", "Derf", "DynamicTanh", "Report"} <= set(dyt.__all__)
    for name in dyt.__all__:
        assert getattr(dyt, name) is not None
        assert name in dir(dyt)


def test_convert_is_a_function_after_submodule_imports():
    code = "import dyt.conversion, dyt.layers; from dyt import convert; print(convert.__name__)"
    assert run_code(code) == "convert\n"


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="module 'dyt' has no attribute 'Dyt'"):
        _ = dyt.Dyt
