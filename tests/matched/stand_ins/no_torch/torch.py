"""Stands for torch in the jobs of these tests: all that environment.json asks it, at no cost."""

from types import SimpleNamespace

cuda = SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)
version = SimpleNamespace(cuda=None)


def get_num_threads() -> int:
    return 1
