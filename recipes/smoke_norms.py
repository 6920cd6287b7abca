"""Norms of the arms at smoke scale, with the α0 that toy networks need."""

from dyt import Norm, suggested_alpha0
from matched import ArmNorms

WIDTH = 64
"""Channels of most networks at smoke scale; the rule gives narrower ones the same α0."""
ALPHA0 = suggested_alpha0(WIDTH)
REASON = (
    f"these networks are about {WIDTH} channels wide or narrower, and the narrower a network, the "
    "larger the α0 it needs (CVPR 2025, Tables 11 and 12; ICLR 2025 submission, Table 7)"
)

SMOKE_NORMS = ArmNorms(norms={"DyT": Norm.dyt(alpha0=ALPHA0)}, reason=REASON)
"""For tables with an arm DyT."""
