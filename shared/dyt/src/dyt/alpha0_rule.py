"""`suggested_alpha0`: the initial α by the width of the network, after the papers' searches."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, get_args

from dyt.validation import check_choice

Part = Literal["attention", "other"]

# (width, α0 before attention, α0 elsewhere), the lowest loss of LLaMA in a search.
_SEARCHED = (
    (512, 1.0, 1.0),  # ICLR 2025 submission, Table 10; one α0 for all layers
    (1024, 1.0, 1.0),  # CVPR 2025, Table 12
    (2048, 1.0, 0.5),  # CVPR 2025, Table 12
    (4096, 0.8, 0.2),  # CVPR 2025, Tables 11 and 12
    (5120, 0.6, 0.15),  # CVPR 2025, Table 11
    (8192, 0.2, 0.05),  # CVPR 2025, Tables 11 and 12
)
_MAXIMUM = 2.0  # the largest value of the searches (ICLR 2025 submission, Table 7)
_NARROW_EXPONENT = -1 / 3


def suggested_alpha0(width: int, part: Part = "other") -> float:
    """Return an initial α of DyT for a network of this width (the number of channels).

    The wider the network, the smaller the best α0; depth, head dimension and sequence length have
    no clear influence (CVPR 2025, Tables 11 and 12; ICLR 2025 submission, Table 7 and Fig. 5).

    At widths 1024, 2048, 4096, 5120 and 8192 this is the value of CVPR 2025, Tables 11 and 12, and
    at 512 that of ICLR 2025 submission, Table 10, all searched with LLaMA. Everything else is not
    from the papers: between these widths the value is interpolated linearly in log(width) and
    log(α0); above 8192 it is that of 8192; below 512 it grows with width^(-1/3), up to 2.0, the
    largest α0 of the searches. The exponent is chosen to give 2.0 at width 64, which is what toy
    networks of that width train best with. The ICLR submission searched one α0 for all layers, and
    has smaller values than the attention column here: 0.5 at 2048, 0.1 to 0.2 at 4096 (Table 7).
    For networks other than language models the papers use 0.5.

    Calibration (`convert(..., calibrate=...)`) fits α to the network's data instead.

    Args:
        width: the number of channels of the residual stream.
        part: "attention" for the norm before attention, "other" for all others.

    Raises:
        ValueError: `width` is not a positive int, or `part` is unknown.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"width = {width!r} is not a number of channels. Pass a positive int.")
    check_choice("part", part, get_args(Part))
    column = 1 + get_args(Part).index(part)
    points = [(row[0], row[column]) for row in _SEARCHED]
    (narrowest, largest), (widest, smallest) = points[0], points[-1]
    if width <= narrowest:
        return min(_MAXIMUM, largest * (width / narrowest) ** _NARROW_EXPONENT)
    if width >= widest:
        return smallest
    for (left, alpha_left), (right, alpha_right) in pairwise(points):
        if width < right:
            share = math.log(width / left) / math.log(right / left)
            return alpha_left * (alpha_right / alpha_left) ** share
    raise AssertionError("the widths are sorted")
