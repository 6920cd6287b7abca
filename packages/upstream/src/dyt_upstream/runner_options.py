"""Exit status and error prefix of the script runner, and its end with its parent.

Imports no torch.
"""

from __future__ import annotations

import signal

from matched.signals import signal_at_parent_exit

RUNNER = "dyt_upstream.runner"
USER_ERROR = 64
"""Exit status for a mistake in the recipe, whose message is the last printed line."""
ERROR_PREFIX = "dyt: error: "


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, so that no script outlives its run."""
    signal_at_parent_exit(signal.SIGKILL)
