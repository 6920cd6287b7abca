"""The arms that most tables of the CVPR 2025 paper share: LayerNorm, and DyT with α0 = 0.5."""

from dyt import Norm
from matched import Arm

ALPHA0 = 0.5
"""Initial α of every model but LLaMA (Section 4)."""

LN = Arm(name="LN", norm=Norm.own())
DYT = Arm(name="DyT", norm=Norm.dyt(alpha0=ALPHA0))
LN_VS_DYT = (LN, DYT)
