"""Command line of dyt: `python -m dyt build` compiles the CPU kernel into the user's cache."""

from __future__ import annotations

import argparse
import sys

from dyt.kernel_build import KernelBuildError, build_into_cache


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m dyt", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="compile the CPU kernel for the installed torch")
    parser.parse_args(arguments)
    try:
        path = build_into_cache()
    except KernelBuildError as error:
        print(f"dyt: CPU kernel not built: {error}", file=sys.stderr)
        return 1
    print(f"dyt: CPU kernel built: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
