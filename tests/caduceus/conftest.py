"""Fixtures of Caduceus's tests: one thread, and a prepared synthetic genome with its tasks."""

from ..hyenadna.conftest import _one_thread, genome

__all__ = ["_one_thread", "genome"]
