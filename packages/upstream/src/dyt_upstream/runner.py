"""Start of a training script with another norm: `python -m dyt_upstream.runner SPECIFICATION`.

The specification is a JSON file that `dyt_upstream.script` writes. torchrun starts this module once
for each process.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyt import Norm, ReplacementError, replacing
from dyt.script_runner import ScriptError, run_as_main
from dyt_upstream.initial_state import recorded_initial_state
from dyt_upstream.runner_options import ERROR_PREFIX, USER_ERROR, die_with_parent


def main(specification: dict[str, Any]) -> int:
    """Run the script and return the exit status; SystemExit of the script is not caught."""
    die_with_parent()  # under torchrun, the parent is its agent
    seed = specification["seed"]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # for scripts that set no seed
    if specification["shims"]:
        importlib.import_module(specification["shims"])
    try:
        with ExitStack() as stack:
            block = stack.enter_context(
                replacing(
                    Norm(**specification["norm"]),
                    skip=specification["skip"],
                    also=specification["also"],
                    report_file=specification["report"],
                )
            )
            if specification["fingerprint"] and os.environ.get("RANK", "0") == "0":
                file = Path(specification["fingerprint"])
                stack.enter_context(recorded_initial_state(block, file))
            run_as_main(specification["command"])
    except (ReplacementError, ScriptError) as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr, flush=True)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
