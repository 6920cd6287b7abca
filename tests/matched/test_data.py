"""Data sources: registration, names in configs, and every problem with their paths at once."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from matched import DataSource, data

SITE = Path("a/site.toml")


def refuse(path):
    raise ValueError(f"{path} has no folder train/")


SOURCES = {
    "digits": DataSource(title="Digits"),
    "extra": DataSource(title="Extra", package="no-such-sounds==1.2"),
    "installed": DataSource(title="Installed", package="pytest==0"),
    "imagenet": DataSource(title="ImageNet", check=lambda path: None),
    "cifar": DataSource(title="CIFAR", check=refuse),
    "upstream.mae": DataSource(title="MAE's code", check=lambda path: None),
    "upstream.dit": DataSource(title="DiT's code", check=refuse),
    "speech": DataSource(title="Speech", check=refuse, refusal="speech needs another Python"),
}


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(data, "load_source", SOURCES.__getitem__)


def resolve(names, paths=(), **options):
    return data.resolve_paths(tuple(names), {name: Path(name) for name in paths}, SITE, **options)


def test_resolve_paths_names_every_problem(known):
    with pytest.raises(ValueError) as refusal:
        resolve(SOURCES, paths=["cifar", "upstream.dit"])
    assert str(refusal.value) == (
        "no path for ImageNet, MAE's code: set `imagenet` under [data] and `mae` under [upstream] "
        "in a/site.toml (see site.example.toml); "
        "Extra needs an optional package: `pip install --no-deps no-such-sounds==1.2`; "
        "[data] cifar in a/site.toml: cifar has no folder train/; "
        "[upstream] dit in a/site.toml: upstream.dit has no folder train/; "
        "speech needs another Python"
    )


def test_resolve_paths_groups_missing_paths_by_section(known):
    with pytest.raises(ValueError) as refusal:
        resolve(["imagenet", "upstream.mae", "cifar", "upstream.dit"])
    assert str(refusal.value) == (
        "no path for ImageNet, MAE's code, CIFAR, DiT's code: set `imagenet`, `cifar` under [data] "
        "and `mae`, `dit` under [upstream] in a/site.toml (see site.example.toml)"
    )


def test_resolve_paths_returns_checked_paths(known):
    paths = ("imagenet", "upstream.mae", "cifar")
    assert resolve(["digits", "installed", "upstream.mae", "imagenet"], paths) == {
        "upstream.mae": Path("upstream.mae"),
        "imagenet": Path("imagenet"),
    }


def test_registered_sources_are_loaded_by_name(monkeypatch):
    """Sorted by name; only the one that is asked for is imported."""
    points = [
        EntryPoint(name=name, value=value, group="matched.data")
        for name, value in (("b", "no_such_module:X"), ("a", "tests.matched.test_data:A_SOURCE"))
    ]
    groups = []
    monkeypatch.setattr(data, "entry_points", lambda group: groups.append(group) or points)
    data.registered_sources.cache_clear()
    try:
        assert list(data.registered_sources()) == ["a", "b"] and groups == ["matched.data"]
        assert data.load_source("a") == A_SOURCE
        with pytest.raises(ValueError) as refusal:
            data.load_source("c")
        assert str(refusal.value) == (
            "unknown data source 'c'; registered are a, b. Is the package that registers it "
            "installed? `make setup` installs all packages"
        )
        points.clear()
        data.registered_sources.cache_clear()
        with pytest.raises(ValueError, match=r"^unknown data source 'a'; registered are none\. "):
            data.load_source("a")
    finally:
        data.registered_sources.cache_clear()


A_SOURCE = SOURCES["imagenet"]
