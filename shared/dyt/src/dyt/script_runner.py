"""Execution of a Python script or module as `__main__`, as the python command does it."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence


class ScriptError(ValueError):
    """The command names no script, or one that does not exist."""


def run_as_main(command: Sequence[str]) -> None:
    """Run ("script.py", arguments…) or ("-m", "package.module", arguments…) in this process.

    sys.argv, sys.path[0] and `__main__` are those that the command `python` would set.

    Raises:
        ScriptError: there is no script or module in the command, or no such file.
    """
    is_module = bool(command) and command[0] == "-m"
    words = command[1:] if is_module else command
    if not words:
        raise ScriptError("no script was given; put it after --, as in -- train.py --epochs 1")
    target, *arguments = words
    if is_module:
        sys.argv = [target, *arguments]
        sys.path[0] = os.getcwd()
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    if not os.path.exists(target):
        raise ScriptError(f"no script {target!r} in {os.getcwd()}")
    sys.argv = [target, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(target))
    runpy.run_path(target, run_name="__main__")
