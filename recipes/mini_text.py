"""Text of the language-model tables at mini scale, their networks, and the minutes of a run.

The text is the docstrings of five pinned packages with a byte-level BPE of 2,048 pieces trained on
them: 8.1 million tokens for training and 180,000 held out.

The learning rate is RMSNorm's best for width 128 and 2 layers on seed 100, which no table has:
a validation loss of 3.921, 3.841 and 3.893 nats with 2.5e-3, 5e-3 and 1e-2 after 1 million tokens.
All networks and arms take the same rate. docs/LOG.md has more.

α0 is searched from 0.5 to 4. On seed 100 the best training loss was in the middle of these values:
with 1, 2 and 4 it was 4.009, 3.883 and 3.972 at width 64 and 4 layers, and with 0.5, 1 and 2 it was
3.608, 3.542 and 3.615 at width 128 and 2 layers.

Weight decay, betas, clipping and schedule are the papers'. Minutes on a core are estimates: CPU
time of a step, measured on a core that other programs shared, times the steps, with 15 % for
evaluations. Those on a GPU are guesses. ``WITH=Derf`` adds Derf with DyT's α0.
"""

import math
from dataclasses import replace
from typing import Any

from dyt_llama.config import Pretraining, Tokenization
from dyt_llama.network_config import Network
from matched import Resources, Run
from recipes.cvpr2025.table04 import TOKENIZE

SEEDS = (0, 1, 2)
VOCABULARY = 2048
TEXT = Run(
    task=TOKENIZE,
    config=Tokenization(data=("docstrings",), vocabulary=VOCABULARY, held_out=0.02),
)
LENGTH = 128
STEP = 2048
"""Tokens of a step."""
EVALUATED = 1 << 15
"""Held-out tokens of an evaluation."""
TOKENS = 1_000_000
"""Tokens that a run of a table sees, once."""
HEAD = 16
"""Channels of a head."""
STD = 0.056
"""√(2/5d) of width 128, at every width; the reason is that of smoke scale, in its note."""
RATE = 5e-3
ALPHAS = (0.5, 1.0, 2.0, 4.0)
PAIRS = ((0.5, 0.5), (1.0, 0.5), (1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (4.0, 4.0))
"""α0 in attention blocks and elsewhere."""
WIDTHS = {1024: 64, 2048: 128, 4096: 256}
DEPTHS = {8: 2, 16: 4}
"""The paper's width or depth → that of the network."""
SECONDS = {
    (64, 2): 0.11,
    (64, 4): 0.15,
    (128, 2): 0.19,
    (128, 4): 0.3,
    (256, 2): 0.39,
    (256, 4): 0.7,
}
"""Width and depth → CPU time of a step with RMSNorm, which takes longer than DyT."""


def network(width: int, depth: int, *, head: int = HEAD, length: int = LENGTH) -> Network:
    heads = width // head
    return Network(
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=heads,
        ffn=3 * width,
        vocabulary=VOCABULARY,
        positions=length,
        std=STD,
    )


def pretraining(
    width: int, depth: int, *, tokens: int = TOKENS, head: int = HEAD, length: int = LENGTH
) -> Pretraining:
    """Pretraining on a number of tokens with the papers' recipe; all steps have as many tokens."""
    steps = tokens // STEP
    return Pretraining(
        network=network(width, depth, head=head, length=length),
        steps=steps,
        batch=STEP // length,
        micro_batch=STEP // length,
        length=length,
        lr=RATE,
        min_lr=RATE / 10,
        schedule="fms-fsdp",
        log_steps=20,
        eval_steps=math.ceil(steps / 8),
        eval_samples=EVALUATED // length,
        eval_batch=STEP // length,
    )


def minutes(width: int, depth: int, *, tokens: int = TOKENS) -> dict[str, Any]:
    """Minutes of a run, on a GPU and on a CPU core."""
    seconds = 1.15 * SECONDS[width, depth] * tokens / STEP
    return {"minutes": 1, "cpu_minutes": math.ceil(seconds / 60)}


RESOURCES = Resources(gpus=1, cpus=2, memory_gb=4, minutes=1, cpu_minutes=2, runs_per_job=20)
TOKENIZING = Resources(cpus=1, memory_gb=4, minutes=2)
"""The tokenization takes 77 seconds of CPU time."""


def resources(width: int, depth: int, *, tokens: int = TOKENS) -> Resources:
    """The resources of a run outside of a search."""
    return replace(RESOURCES, **minutes(width, depth, tokens=tokens))


TEXT_NOTE = (
    "Docstrings of scikit-learn, sympy, torch, transformers and diffusers in a byte-level BPE of "
    f"2,048 pieces; steps of {STEP:,} tokens. All initial weights have a standard deviation of "
    f"{STD:g}."
)
NOTE = f"A run sees {TOKENS:,} of 8.1 million tokens once. {TEXT_NOTE}"
