"""SkipInit (De & Smith, arXiv 2002.10444), which for Transformers is ReZero (arXiv 2003.04887).

Each residual branch f ends in one learnable scalar, initially 0: x ← x + a·f(x) (ReZero, Section 1,
Eq. 1). The signal and its gradient therefore pass through any number of blocks unchanged until the
a have grown. De & Smith find that this is what normalization does for a residual network at its
initialization: it makes the branches small compared to the skip connection.
"""

from __future__ import annotations

from dyt_vision.normfree.block_model import BlockModel
from dyt_vision.normfree.scalars import ScalarScale


def install(blocks: BlockModel) -> list[str]:
    """Append a scalar 0 to every residual branch; return the scalars' paths."""
    return [
        blocks.put(f"{path}.{slot}", ScalarScale(0))
        for path in blocks.block_paths()
        for slot in ("ls1", "ls2")
    ]
