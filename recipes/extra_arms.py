"""Arms that the papers' tables do not have, for the option --with.

Derf, erf(αx + s) with learnable s, is the successor of DyT (arXiv 2512.10938). It has erf instead
of the tanh of the arm DyT, or of the arm tanh, with the same α0 and s0 = 0. In the tuning tables it
is not tuned.
"""

from dataclasses import replace

from dyt import Norm
from matched.extra_arms import ExtraArm


def derf(norm: Norm) -> Norm:
    return replace(norm, squash="erf", shift0=0.0)


EXTRA_ARMS = (ExtraArm(name="Derf", like=("DyT", "tanh", "DyT (original)"), derive_norm=derf),)
