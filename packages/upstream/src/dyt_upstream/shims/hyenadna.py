"""HyenaDNA (HazyResearch/hyena-dna), written for transformers 4, without flash-attn and wandb.

The trainer needs pytorch-lightning 1.9, torchmetrics, datasets, rich and pandas below 3. Packages
of other data sets that it imports as well may be missing.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from transformers import PreTrainedTokenizer

from dyt_upstream.shims.flash_attn import provide_flash_attn

OPTIONAL = ("wandb", "polars", "Bio", "genomic_benchmarks", "liftover")
"""Packages of which the trainer only imports names, unless a data set or logger needs them."""


class _EmptyModule(ModuleType):
    """Module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"run": None})


class _OptionalPackages(MetaPathFinder, Loader):
    """Finder of empty modules for the optional packages that are not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in OPTIONAL:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""


def _adapt_tokenizer() -> None:
    """Let a tokenizer of transformers 4 be built, with its former option and a late vocabulary."""
    tokenizer: Any = PreTrainedTokenizer
    init = tokenizer.__init__

    def __init__(self: Any, *args: Any, add_special_tokens: bool = True, **options: Any) -> None:
        init(self, *args, **options)

    tokenizer.__init__ = __init__
    tokenizer.get_vocab = lambda self: dict(getattr(self, "_vocab_str_to_int", {}))


sys.meta_path.append(_OptionalPackages())  # last: installed packages are found first
if importlib.util.find_spec("flash_attn") is None:
    provide_flash_attn()
_adapt_tokenizer()
