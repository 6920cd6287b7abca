"""The arms that most tables of the ICLR 2025 submission share: LayerNorm, and DyT with α0 = 1."""

from dyt import Norm
from matched import Arm

ALPHA0 = 1.0
"""Initial α of every model but LLaMA (Sections 2.2 and 4.2)."""

LN = Arm(name="LN", norm=Norm.own())
DYT = Arm(name="DyT", norm=Norm.dyt(alpha0=ALPHA0))
LN_VS_DYT = (LN, DYT)
