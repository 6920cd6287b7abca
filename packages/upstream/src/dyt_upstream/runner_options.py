"""Exit status and error prefix of the script runner, and its end with its parent.

Imports no torch.
"""

from __future__ import annotations

import ctypes
import signal
import sys

RUNNER = "dyt_upstream.runner"
USER_ERROR = 64
"""Exit status for a mistake in the recipe, whose message is the last printed line."""
ERROR_PREFIX = "dyt: error: "
PR_SET_PDEATHSIG = 1
"""From Linux's sys/prctl.h."""


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, so that no script outlives its run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
