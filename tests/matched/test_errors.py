"""one_line, the format of exceptions in logs and error messages."""

import pytest

from matched.errors import one_line

IN_A_WORKER = (
    "Caught OSError in DataLoader worker process 0.\n"
    'Original Traceback (most recent call last):\n  File "worker.py", line 1, in loop\n'
    "    fetch()\nOSError: disk\n failed\n"
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("disk\n  failed"), "OSError: disk failed"),
        (ValueError("epochs is 0;\n expected 1"), "epochs is 0; expected 1"),
        (KeyError(), "KeyError"),
        (ValueError(), "ValueError"),
        (RuntimeError(IN_A_WORKER), "OSError: disk failed"),
    ],
    ids=["type and message", "user's mistake", "no message", "empty mistake", "data loader"],
)
def test_one_line_formats_type_and_message(error, text):
    assert one_line(error) == text
