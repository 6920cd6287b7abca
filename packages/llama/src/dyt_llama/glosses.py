"""Glosses and lemmas of WordNet: 21,844 nouns and their definitions, which come with timm."""

from __future__ import annotations

from importlib.resources import files

GLOSSES = "data/_info/imagenet_synset_to_definition.txt"
LEMMAS = "data/_info/imagenet_synset_to_lemma.txt"


def glosses() -> list[str]:
    """Return the definitions in the order of their synsets, about 1.5 million characters."""
    return _second_column(GLOSSES)


def lemmas() -> list[list[str]]:
    """Return the words and phrases for each synset, in the order of ``glosses``."""
    return [names.split(", ") for names in _second_column(LEMMAS)]


def _second_column(file: str) -> list[str]:
    text = files("timm").joinpath(file).read_text(encoding="utf-8")
    return [value for _, _, value in (line.partition("\t") for line in text.splitlines())]
