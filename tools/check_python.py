"""Check of the Python version against the pinned packages; valid syntax for any Python."""

import sys

OLDEST, NEWEST = (3, 11), (3, 14)


def complaint(version):
    """Return one line that says what to do about this version, or None if it is supported."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    return (
        "error: this is Python %d.%d; the pinned packages need 3.11 to 3.14. "
        "Install one of them and run `make setup PYTHON=python3.12`" % tuple(version[:2])
    )


if __name__ == "__main__":
    text = complaint(sys.version_info)
    try:
        import ensurepip  # noqa: F401  venv needs it; Debian has it in a separate package
    except ImportError:
        text = text or (
            "error: this Python has no venv module; on Debian and Ubuntu install python%d.%d-venv"
            % sys.version_info[:2]
        )
    if text:
        sys.stderr.write(text + "\n")
        sys.exit(2)
