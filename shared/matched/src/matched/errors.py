"""Formatting of exceptions for logs, failure.json and error messages."""

from __future__ import annotations

import re

WORKER_ERROR = re.compile(
    r"Caught \w+ in [^\n]+\.\nOriginal .*Traceback \(most recent call last\):\n"
    r"(?: [^\n]*\n)+(?:[^\s:]+\.)?(?P<name>\w+)(?:: (?P<text>.*))?\n?",
    re.DOTALL,
)
"""Message of an error in a data-loading worker: torch raises it again with the traceback in it."""


def one_line(error: BaseException) -> str:
    """Format ``error`` on one line as "Type: message", or "message" if it is a ValueError.

    A ValueError is a user's mistake, and its message says enough. For an error of a data-loading
    worker, type and message are those of the original error.
    """
    name, text = type(error).__name__, str(error)
    if original := WORKER_ERROR.fullmatch(text):
        name, text = original["name"], original["text"] or ""
    text = " ".join(text.split())
    if isinstance(error, ValueError) and text:
        return text
    return f"{name}: {text}" if text else name
