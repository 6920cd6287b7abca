"""Mini scale of Table 8: ViT-S of CVPR's Table 8 with and without α, on the digits or on a folder.

The row with α shares its runs with that table.
"""

from recipes.cvpr2025.mini.table09 import alpha_scale
from recipes.cvpr2025.table08 import VIT_S
from recipes.iclr2025.table08 import FUNCTIONS
from recipes.mini_images import on_every_set

SCALE = on_every_set(lambda images: alpha_scale(images, VIT_S, "vit_s", FUNCTIONS))
