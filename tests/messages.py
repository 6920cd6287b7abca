"""Helper for the tests of whole messages."""

import pytest


def refused(function, *arguments, **keywords):
    """Return the whole message of the ValueError with which a call is refused."""
    with pytest.raises(ValueError) as error:
        function(*arguments, **keywords)
    return str(error.value)
