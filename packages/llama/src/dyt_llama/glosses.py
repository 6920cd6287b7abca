"""Glosses: WordNet's definitions of 21,844 nouns, real English text that comes with timm."""

from __future__ import annotations

from importlib.resources import files

FILE = "data/_info/imagenet_synset_to_definition.txt"


def glosses() -> list[str]:
    """Return the definitions in the order of their synsets, about 1.5 million characters."""
    text = files("timm").joinpath(FILE).read_text(encoding="utf-8")
    return [definition for _, _, definition in (line.partition("\t") for line in text.splitlines())]
