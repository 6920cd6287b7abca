"""Names of the methods without normalization as plain values, so that configs need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from matched.checks import check_choice

Method = Literal["fixup", "skipinit", "sigma_reparam"]

_TITLES = {"fixup": "Fixup", "skipinit": "SkipInit", "sigma_reparam": "σReparam"}


@dataclass(frozen=True, kw_only=True)
class NormFree:
    """An arm without norm layers, by an earlier method (CVPR 2025, Table 10).

    Used in a config in place of a ``dyt.Norm``; ``dyt_vision.normfree.apply`` applies it.

    Attributes:
        method: "fixup" (arXiv 1901.09321), "skipinit" (arXiv 2002.10444) or "sigma_reparam"
            (arXiv 2303.06296).

    Raises:
        ValueError: for any other method.
    """

    method: Method

    def __post_init__(self) -> None:
        check_choice(self, "method", get_args(Method))

    def __str__(self) -> str:
        return _TITLES[self.method]
