"""Command line of dyt: `build` compiles the CPU kernel, `run` runs a script with another norm.

python -m dyt build
python -m dyt run --norm dyt --alpha0 0.5 -- train.py --epochs 1
torchrun --nproc-per-node 8 -m dyt run --norm dyt -- train.py --epochs 1
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from dyt.kernel_build import KernelBuildError, build_into_cache
from dyt.norm_config import ALPHA0, Norm

NORMS = {"dyt": Norm.dyt, "derf": Norm.derf, "own": lambda alpha0, **_: Norm.own()}
REPORT_FILE = "dyt-replaced.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, command = _split(words)
    parsed = _parser().parse_args(options)
    return _build() if parsed.command == "build" else _run(parsed, command)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Split the words into the options of dyt and the script's command, after -- or from -m on."""
    for position, word in enumerate(words):
        if word == "--":
            return words[:position], words[position + 1 :]
        if word == "-m":
            return words[:position], words[position:]
    return words, []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dyt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="compile the CPU kernel for the installed torch")
    run = commands.add_parser(
        "run",
        help="run a script, unchanged, with the norm layers of its networks replaced",
        usage="python -m dyt run [options] -- script.py …  |  [options] -m package.module …",
    )
    run.add_argument("--norm", choices=NORMS, default="dyt", help="default: dyt")
    run.add_argument("--alpha0", type=float, default=ALPHA0, help=f"default: {ALPHA0}")
    run.add_argument(
        "--alpha0-at",
        action="append",
        default=[],
        metavar="GLOB=ALPHA0",
        help="another α0 for some module paths; may be repeated",
    )
    run.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="module paths to leave alone"
    )
    run.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="CLASS",
        help="a further norm class, such as BatchNorm2d or package.module.Norm",
    )
    run.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module before the script, such as one that adapts an old script",
    )
    run.add_argument(
        "--report", default=REPORT_FILE, metavar="FILE", help=f"default: {REPORT_FILE}"
    )
    return parser


def _build() -> int:
    try:
        path = build_into_cache()
    except KernelBuildError as error:
        print(f"dyt: CPU kernel not built: {error}", file=sys.stderr)
        return 1
    print(f"dyt: CPU kernel built: {path}")
    return 0


def _run(parsed: argparse.Namespace, command: list[str]) -> int:
    from dyt.conversion import check_skip
    from dyt.replacing_block import ReplacementError, replacing
    from dyt.script_runner import ScriptError, run_as_main

    try:
        norm = NORMS[parsed.norm](parsed.alpha0, alpha0_at=_alpha0_at(parsed.alpha0_at))
        if parsed.norm == "own" and parsed.alpha0_at:
            raise ValueError("--alpha0-at needs --norm dyt or derf; own norms have no α0")
        check_skip(parsed.skip)
        for name in parsed.imports:
            importlib.import_module(name)
    except (ValueError, ImportError) as error:
        print(f"dyt: error: {error}", file=sys.stderr)
        return 2
    try:
        with replacing(norm, skip=parsed.skip, also=parsed.also, report_file=parsed.report):
            run_as_main(command)
    except (ReplacementError, ScriptError) as error:
        print(f"dyt: error: {error}", file=sys.stderr)
        return 2
    return 0


def _alpha0_at(texts: list[str]) -> list[tuple[str, float]]:
    pairs = []
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            pairs.append((pattern, float(number)))
        except ValueError:
            raise ValueError(f"--alpha0-at {text!r} is not of the form GLOB=ALPHA0") from None
    return pairs


if __name__ == "__main__":
    sys.exit(main())
