"""Helpers for the tests of configs: their defaults, and the messages that refuse a value."""

import dataclasses

import pytest


def defaults_of(module):
    """Return class → {field: default} of a module's configs, without inherited fields.

    Fields without a default and those whose default is made by a function are left out.
    """
    configs = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type)
        and dataclasses.is_dataclass(cls)
        and cls.__module__ == module.__name__
    ]
    return {
        cls.__name__: {
            field.name: field.default
            for field in dataclasses.fields(cls)
            if field.name in cls.__annotations__ and field.default is not dataclasses.MISSING
        }
        for cls in configs
    }


def assert_checks_counts(config, *names):
    """Assert that each field must be a whole number of 1 or more."""
    for name in names:
        dataclasses.replace(config, **{name: getattr(config, name)})
        for value in (0, 1.5):
            assert refusal(config, **{name: value}) == (
                f"{name} is {value}; expected a whole number of 1 or more"
            )


def assert_checks_fractions(config, *names):
    """Assert that each field must be from 0 to 1."""
    for name in names:
        for value in (-0.1, 1.1):
            assert refusal(config, **{name: value}) == f"{name} is {value}; expected 0 to 1"


def refusal(config, **changes):
    """Return the message with which a change of a config is refused."""
    with pytest.raises(ValueError) as error:
        dataclasses.replace(config, **changes)
    return str(error.value)
