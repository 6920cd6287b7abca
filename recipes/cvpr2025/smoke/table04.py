"""Smoke scale of Table 4: toy LLaMAs pretrained on WordNet's glosses, scored on words in them."""

import math

from dyt import Norm
from dyt_llama.config import Pretraining, Tokenization, ZeroShot
from dyt_llama.gloss_word import CHOICES, HELD_OUT, QUESTIONS
from dyt_llama.network_config import Network
from dyt_llama.zero_shot_tasks import GLOSS_WORD
from matched import Resources, Run, Scale
from recipes.cvpr2025.table04 import TOKENIZE, arms, scored, with_scores
from recipes.smoke_norms import ALPHA0

GLOSSES = Run(
    task=TOKENIZE, config=Tokenization(data=("glosses",), vocabulary=2048, held_out=HELD_OUT)
)
ZERO_SHOT = ZeroShot(data=("glosses",), tasks=(GLOSS_WORD,), batch=64, precision="fp32")
LENGTH = 64
WIDTH = 64
STD = round(math.sqrt(2 / 5 / WIDTH), 3)
"""See ``NOTE``."""
DYT = Norm.dyt(alpha0=ALPHA0)


def tiny(*, depth: int, kv_heads: int) -> dict[str, Run]:
    """Pretraining of a toy model on glosses, with scores: arm → run."""
    network = Network(
        width=WIDTH,
        depth=depth,
        heads=4,
        kv_heads=kv_heads,
        ffn=192,
        vocabulary=2048,
        positions=LENGTH,
        std=STD,
    )
    config = Pretraining(
        network=network,
        steps=300,
        batch=16,
        micro_batch=16,
        length=LENGTH,
        lr=5e-3,
        min_lr=5e-4,
        schedule="fms-fsdp",
        log_steps=10,
        eval_steps=100,
        eval_samples=128,
        eval_batch=16,
    )
    return scored(arms(config, DYT, GLOSSES), ZERO_SHOT)


METRICS = with_scores("gloss_word: mean of acc and acc_norm", "gloss_word: accuracy")
CHANCE = 100 / CHOICES
SPREAD = math.sqrt(CHANCE * (100 - CHANCE) / QUESTIONS)

NOTE = (
    f"Models of width {WIDTH} on WordNet's glosses, with a byte-level BPE of 2,048 pieces trained "
    f"on them: 300 steps of 1,024 tokens. α0 is {ALPHA0:g}, by the width rule. The initial weights "
    f"of both arms have a standard deviation of {STD}, not 0.02: √(2/5d) (Nguyen and Salazar 2019) "
    f"is 0.02 at d = 1,000 and {STD} at {WIDTH}. With 0.02 the scaled embedding would have 0.16, "
    "and in LLaMA 7B it has 1.3; RMSNorm rescales it, but DyT trains slowly where αx stays small. "
    "In place of the papers' fifteen tasks, lm-eval scores gloss_word, which asks "
    f"{QUESTIONS} times which of {CHOICES} words follows in a gloss that was held "
    f"out. Chance is {CHANCE:g} %, with a binomial standard deviation of {SPREAD:.1f} %."
)

SCALE = Scale(
    name="smoke",
    seeds=(0, 1),
    runs={
        "llama_7b": tiny(depth=2, kv_heads=4),
        "llama_13b": tiny(depth=3, kv_heads=4),
        "llama_34b": tiny(depth=2, kv_heads=2),
        "llama_70b": tiny(depth=3, kv_heads=2),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=1, runs_per_job=8),
    note=f"34B and 70B have grouped-query attention, as in the paper. {NOTE}",
    metrics=METRICS,
)
