"""Searches of LLaMA's α0, for the tables of both papers."""

from collections.abc import Iterable
from dataclasses import replace

from dyt import Norm
from dyt_llama.config import Pretraining
from matched import Metric, Run, Search, Trial
from recipes.cvpr2025.table04 import METRICS, PRETRAIN, alpha0

ALPHA0 = Metric(key="alpha0", label="α0", direction="none")
ALPHA0_BY_PART = (
    Metric(key="alpha0_attention", label="α0 (attention)", direction="none"),
    Metric(key="alpha0_other", label="α0 (other)", direction="none"),
)
LOSS = METRICS[0]
"""The training loss at the end, by which both papers choose α0."""


def with_alpha0(config: Pretraining, norm: Norm, tokens: Run) -> Run:
    """Pretraining with DyT, whose embedding has the learnable scalar."""
    config = replace(config, norm=norm, embedding_scale=True)
    return Run(task=PRETRAIN, config=config, needs={"tokens": tokens})


def alpha0_search(
    config: Pretraining, values: Iterable[float], tokens: Run, **minutes: int | None
) -> Search:
    """Search of one α0 for all layers.

    Args:
        minutes: minutes and cpu_minutes of the search.
    """
    trials = tuple(
        Trial(values={"alpha0": value}, run=with_alpha0(config, Norm.dyt(alpha0=value), tokens))
        for value in values
    )
    return Search(metric=LOSS.key, trials=trials, **minutes)


def alpha0_by_part_search(
    config: Pretraining,
    pairs: Iterable[tuple[float, float]],
    tokens: Run,
    **minutes: int | None,
) -> Search:
    """Search of α0 in attention blocks and elsewhere.

    Equal values are one α0 for all layers, the same run as in ``alpha0_search``.

    Args:
        minutes: minutes and cpu_minutes of the search.
    """
    trials = []
    for attention, other in pairs:
        norm = Norm.dyt(alpha0=other) if attention == other else alpha0(attention, other)
        values = {"alpha0_attention": attention, "alpha0_other": other}
        trials.append(Trial(values=values, run=with_alpha0(config, norm, tokens)))
    return Search(metric=LOSS.key, trials=tuple(trials), **minutes)
