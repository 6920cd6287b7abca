"""Data sources for the checkouts, whose paths are in the section [upstream] of site.toml."""

from __future__ import annotations

from functools import partial

from dyt_upstream.checkout import check_checkout
from dyt_upstream.upstreams import UPSTREAMS
from matched import DataSource


def _source(name: str) -> DataSource:
    repository = UPSTREAMS[name].repository
    if not repository:
        return DataSource(title="a miniature upstream repository")
    return DataSource(title=f"the checkout of {repository}", check=partial(check_checkout, name))


CADUCEUS = _source("caduceus")
DINO = _source("dino")
DIT = _source("dit")
FAIRSEQ = _source("fairseq")
HYENADNA = _source("hyenadna")
MAE = _source("mae")
MINIATURE = _source("miniature")
NANOGPT = _source("nanogpt")
