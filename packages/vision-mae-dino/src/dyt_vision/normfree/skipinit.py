"""SkipInit (De & Smith, arXiv 2002.10444), which for Transformers is ReZero (arXiv 2003.04887).

Each residual branch f gets one learnable scalar at its end, 0 at the start: x ← x + a·f(x) (ReZero,
Section 1, Eq. 1). So the signal and its gradient pass through any number of blocks unchanged until
the a have grown. De & Smith find that this is what normalization does for a residual network at its
start: it makes the branches small beside the skip connection.
"""

from __future__ import annotations

from dyt_vision.normfree.scalars import ScalarScale
from dyt_vision.normfree.transformer import Transformer


def install(transformer: Transformer) -> list[str]:
    """End every residual branch in a scalar 0; returns the scalars' paths."""
    return [
        transformer.put(f"{path}.{slot}", ScalarScale(0))
        for path in transformer.blocks()
        for slot in ("ls1", "ls2")
    ]
