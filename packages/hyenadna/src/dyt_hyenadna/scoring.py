"""Scores from fine-tuning runs: a task's mean over its splits, and the mean over all tasks.

The tasks ``score_task``, ``select_setting`` and ``score_benchmark`` of this module. They train
nothing: they read the results of the runs that they need.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dyt_hyenadna.config import BenchmarkScore, Selection, TaskScore
from matched.files import read_json
from matched.task import Context, Outcome
from matched.training.artifacts import has_diverged
from matched.training.fingerprint import digest_of


def score_task(context: Context, config: TaskScore) -> Outcome:
    """Score one task by the fine-tuning runs in the needs.

    Metrics are ``accuracy`` (percent, mean over the runs), ``accuracy_std``, their sample standard
    deviation, ``accuracy_range``, the largest minus the smallest, which is what Caduceus prints
    after "±", and with splits ``val_accuracy``. A single run has no spread.

    Raises:
        ValueError: if no run is named, or the runs have different test sets.
    """
    results = _read_results(context, "the score of a task needs fine-tuning runs")
    if diverged := _diverged(context, results):
        return diverged
    checksums = {result["details"]["test_checksum"] for result in results.values()}
    if len(checksums) > 1:
        raise ValueError(
            f"{', '.join(results)} have {len(checksums)} test sets; fine-tune all runs of "
            "a score on one task, from one preparation"
        )
    accuracies = _values(results, "accuracy")
    metrics = {"accuracy": statistics.fmean(accuracies)}
    if len(accuracies) > 1:
        metrics["accuracy_std"] = statistics.stdev(accuracies)
        metrics["accuracy_range"] = max(accuracies) - min(accuracies)
    if validation := _values(results, "val_accuracy"):
        metrics["val_accuracy"] = statistics.fmean(validation)
    return _outcome(context, metrics, results)


def select_setting(context: Context, config: Selection) -> Outcome:
    """Return the score with the best mean validation accuracy; of equal ones the first by name.

    Raises:
        ValueError: if no score is named, or one is without validation.
    """
    results = _read_results(context, "the selection of a setting needs scores")
    if diverged := _diverged(context, results):
        return diverged
    if len(_values(results, "val_accuracy")) < len(results):
        raise ValueError(
            f"some of {', '.join(results)} have no validation accuracy; fine-tune with a split"
        )
    best = max(results, key=lambda name: results[name]["metrics"]["val_accuracy"])
    outcome = _outcome(context, results[best]["metrics"], results)
    return replace(outcome, details={**outcome.details, "selected": best})


def score_benchmark(context: Context, config: BenchmarkScore) -> Outcome:
    """Average the scores of the tasks in the needs, each under its task's name.

    Metrics are ``accuracy``, the plain mean over the tasks as the papers print it,
    ``accuracy_std``, its standard deviation over splits if those of the tasks are independent, and
    ``accuracy.<task>`` for every task.

    Raises:
        ValueError: if no score is named.
    """
    results = _read_results(context, "the score of the benchmark needs scores of tasks")
    if diverged := _diverged(context, results):
        return diverged
    accuracies = _values(results, "accuracy")
    metrics = {"accuracy": statistics.fmean(accuracies)}
    deviations = _values(results, "accuracy_std")
    if len(deviations) == len(results):
        metrics["accuracy_std"] = sum(d**2 for d in deviations) ** 0.5 / len(deviations)
    metrics |= {f"accuracy.{task}": value for task, value in zip(results, accuracies, strict=True)}
    return _outcome(context, metrics, results)


def _read_results(context: Context, missing: str) -> dict[str, dict[str, Any]]:
    """Return name → content of result.json of every need, sorted by name."""
    if not context.needs:
        raise ValueError(f"{missing}; it has none")
    results = {}
    for name, directory in sorted(context.needs.items()):
        result = read_json(directory / "result.json", ("metrics", "details", "outcome"))
        if result is None:
            raise ValueError(f"{directory} has no result; submit again to compute it")
        results[name] = result
    return results


def _diverged(context: Context, results: Mapping[str, Any]) -> Outcome | None:
    """Return the outcome of a score some of whose runs diverged; None if all ended."""
    names = [name for name in results if has_diverged(context.needs[name])]
    if not names:
        return None
    reason = f"diverged: {', '.join(names)}"
    return Outcome(metrics={}, diverged=True, steps=0, details={"reason": reason})


def _values(results: Mapping[str, Any], metric: str) -> list[float]:
    """Return a metric of the runs that have it."""
    metrics = (result["metrics"] for result in results.values())
    return [values[metric] for values in metrics if metric in values]


def _outcome(context: Context, metrics: Mapping[str, float], results: Mapping[str, Any]) -> Outcome:
    """Return the outcome, and write the fingerprint: hashes of the test sets, and no weights."""
    checksums = {str(result["details"]["test_checksum"]) for result in results.values()}
    checksum = digest_of(sorted(checksums))
    context.write_fingerprint(weights="", batches=[checksum])
    return Outcome(metrics=metrics, steps=len(results), details={"test_checksum": checksum})
