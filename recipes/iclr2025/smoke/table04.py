"""Smoke scale of Table 4: toy LLaMAs pretrained on WordNet's glosses, scored on words in them."""

from dataclasses import replace

from recipes.cvpr2025.smoke import table04
from recipes.cvpr2025.smoke.table04 import NOTE, tiny

SCALE = replace(
    table04.SCALE,
    runs={"llama_1b4": tiny(depth=2, kv_heads=2), "llama_7b": tiny(depth=2, kv_heads=4)},
    note=f"1.4B has grouped-query attention. {NOTE}",
)
