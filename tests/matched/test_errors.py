"""one_line, the format of exceptions in logs and error messages."""

import pytest

from matched.errors import one_line

IN_A_WORKER = (
    "Caught OSError in DataLoader worker process 0.\n"
    'Original Traceback (most recent call last):\n  File "worker.py", line 1, in loop\n'
    "    fetch()\nOSError: disk\n failed\n"
)


class NoMemoryError(RuntimeError):
    """An error whose kind the message of a worker gives with its module."""


class KeyErrorMessage(str):
    """The message with which torch raises a worker's KeyError again."""

    def __repr__(self):
        return str(self)


def in_a_worker(kind, last):
    return kind(IN_A_WORKER.replace("OSError: disk\n failed", last))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("disk\n  failed"), "OSError: disk failed"),
        (ValueError("epochs is 0;\n expected 1"), "epochs is 0; expected 1"),
        (KeyError(), "KeyError"),
        (ValueError(), "ValueError"),
        (RuntimeError(IN_A_WORKER), "OSError: disk failed"),
        (in_a_worker(ValueError, "ValueError: no file\n  a"), "no file a"),
        (in_a_worker(ValueError, "ValueError"), "ValueError"),
        (in_a_worker(NoMemoryError, "a.b.NoMemoryError: 2 GB: none"), "NoMemoryError: 2 GB: none"),
        (
            in_a_worker(lambda text: KeyError(KeyErrorMessage(text)), "KeyError: 'a'"),
            "KeyError: 'a'",
        ),
        (RuntimeError("Caught a cold.\nOriginal"), "RuntimeError: Caught a cold. Original"),
    ],
    ids=[
        "type and message",
        "user's mistake",
        "no message",
        "empty mistake",
        "data loader",
        "mistake in data",
        "empty mistake in data",
        "module of the type",
        "key error",
        "other text",
    ],
)
def test_one_line_formats_type_and_message(error, text):
    assert one_line(error) == text
