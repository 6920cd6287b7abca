"""A stand-in for torch in the jobs of these tests, with what environment.json records."""

from types import SimpleNamespace

cuda = SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)
version = SimpleNamespace(cuda=None)


def get_num_threads() -> int:
    return 1
