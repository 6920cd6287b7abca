"""Three small layers in place of the sizes that fms-fsdp names, the smallest of which has 194M."""

from __future__ import annotations

from typing import Any

from fms.models import llama

SIZES = {"emb_dim": 64, "nheads": 4, "kvheads": 2, "nlayers": 3, "src_vocab_size": 1000}
Config = llama.LLaMAConfig


def small_config(**sizes: Any) -> Any:
    """Return the config with other sizes."""
    return Config(**{**sizes, **SIZES})


llama.LLaMAConfig = small_config
