"""Rows of Tables 13 and 14: the models of Tables 1, 2, 3, 5 and 6 with a tuned setting."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from dyt import Norm
from matched import Resources, Run, Scale, Search, Trial, derive_run
from matched.table import runs_with_needs
from recipes.cvpr2025 import table01, table02, table03, table05, table06

TRAININGS = (
    table01.TASK,
    table02.PRETRAIN_MAE,
    table02.PRETRAIN_DINO,
    table03.TRAIN,
    table05.PRETRAIN,
    table06.PRETRAIN_HYENA,
    table06.PRETRAIN_CADUCEUS,
)
"""Tasks whose learning rate is tuned; fine-tunings keep theirs."""


def run_of(runs: Run | Mapping[str, Run | Search], arm: str) -> Run:
    """The run of an arm in a row of Tables 1 to 6."""
    run = runs if isinstance(runs, Run) else runs[arm]
    assert isinstance(run, Run)
    return run


def learning_rate(run: Run) -> float:
    """The learning rate of a row's training."""
    (rate,) = {need.config.lr for _, need in runs_with_needs(run, "") if need.task in TRAININGS}
    return rate


def with_learning_rate(run: Run, lr: float) -> Run:
    """The run with another learning rate in its training."""
    return Run(
        task=run.task,
        config=replace(run.config, lr=lr) if run.task in TRAININGS else run.config,
        needs={name: with_learning_rate(need, lr) for name, need in run.needs.items()},
    )


def learning_rate_search(
    run: Run, factors: Iterable[float], metric: str, *, unit: float = 1.0
) -> Search:
    """Search of a row's learning rate.

    Args:
        factors: of the original rate, 1 among them: that trial is the run of the row's own table.
        unit: the rate that is printed as 1. DINO's rates are stated per 256 images.
    """
    original = learning_rate(run)
    rates = {factor: float(f"{original * factor:.6g}") for factor in factors}
    trials = tuple(
        Trial(
            values={"lr": float(f"{rate / unit:.6g}")},
            run=run if factor == 1 else with_learning_rate(run, rate),
        )
        for factor, rate in rates.items()
    )
    return Search(metric=metric, trials=trials, original={"lr": float(f"{original / unit:.6g}")})


def alpha0_search(run: Run, values: Iterable[float], metric: str, *, original: float) -> Search:
    """Search of a row's α0."""
    trials = tuple(
        Trial(values={"alpha0": value}, run=derive_run(run, norm=Norm.dyt(alpha0=value)))
        for value in values
    )
    return Search(metric=metric, trials=trials, original={"alpha0": original})


def resources_of(scales: Iterable[Scale]) -> dict[str, Resources]:
    """Resources of the runs of these scales' rows, and of the runs that they need, by path."""
    found: dict[str, Resources] = {}
    for scale in scales:
        found |= dict.fromkeys(scale.runs, scale.resources) | dict(scale.resource_overrides)
    return found
