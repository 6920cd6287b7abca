"""DINO (facebookresearch/dino), written for torch 1.7, with newer libraries and without network."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import torch

from dyt_upstream.shims.old_libraries import restore_removed_names

restore_removed_names()
_list: Any = torch.hub.list


def list_models(*args: Any, **options: Any) -> list[str]:
    """Return the models of a repository, none without network: DINO offers XCiT's as options."""
    try:
        return list(_list(*args, **options))
    except URLError:
        return []


torch.hub.list = list_models
