"""Scores from fine-tuning runs: a task's mean over its splits, and the mean over all tasks.

The tasks ``dyt_hyenadna.scoring:score_task`` and ``dyt_hyenadna.scoring:score_benchmark``. They train
nothing: they read the results of the runs that they need.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyt_hyenadna.config import BenchmarkScore, TaskScore
from matched.files import read_json
from matched.task import Context, Outcome
from matched.training.artifacts import has_diverged
from matched.training.fingerprint import digest_of

TASK_PREFIX = "accuracy."
"""Prefix of the metrics of single tasks in the score of the benchmark."""


def score_task(context: Context, config: TaskScore) -> Outcome:
    """Score one task by the fine-tuning runs in the needs.

    Metrics are ``accuracy`` (percent, mean over the runs), ``accuracy_std``, their sample standard
    deviation, and ``accuracy_range``, the largest minus the smallest, which is Caduceus's "±" over
    five splits. The last two are missing with a single run.

    Raises:
        ValueError: if no run is named, or one has another test set.
    """
    if not context.needs:
        raise ValueError(f"the score of {config.task} needs at least one fine-tuning run")
    results = _read_results(context.needs)
    checksums = {result["details"].get("test_checksum") for result in results.values()}
    if diverged := [name for name in results if has_diverged(context.needs[name])]:
        return _diverged(diverged)
    if len(checksums) > 1:
        raise ValueError(
            f"the runs of {config.task} have {len(checksums)} different test sets; their tasks were "
            "prepared from different data"
        )
    accuracies = [result["metrics"]["accuracy"] for result in results.values()]
    metrics = {"accuracy": statistics.fmean(accuracies)}
    if len(accuracies) > 1:
        metrics["accuracy_std"] = statistics.stdev(accuracies)
        metrics["accuracy_range"] = max(accuracies) - min(accuracies)
    return _write(context, metrics, checksums)


def score_benchmark(context: Context, config: BenchmarkScore) -> Outcome:
    """Average the scores of the tasks in the needs, each under its task's name.

    Metrics are ``accuracy``, the plain mean over the tasks as the papers print it,
    ``accuracy_std``, its standard deviation if those of the tasks are independent, and
    ``accuracy.<task>`` for every task.

    Raises:
        ValueError: if no score is named.
    """
    if not context.needs:
        raise ValueError("the score of the benchmark needs the score of at least one task")
    results = _read_results(context.needs)
    if diverged := [name for name in results if has_diverged(context.needs[name])]:
        return _diverged(diverged)
    scores = {task: result["metrics"] for task, result in results.items()}
    accuracies = {task: score["accuracy"] for task, score in scores.items()}
    metrics = {"accuracy": statistics.fmean(accuracies.values())}
    deviations = [score["accuracy_std"] for score in scores.values() if "accuracy_std" in score]
    if len(deviations) == len(scores):
        metrics["accuracy_std"] = sum(d**2 for d in deviations) ** 0.5 / len(scores)
    metrics |= {f"{TASK_PREFIX}{task}": accuracy for task, accuracy in accuracies.items()}
    checksums = {str(result["details"]["test_checksum"]) for result in results.values()}
    return _write(context, metrics, checksums)


def _read_results(needs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return name → content of result.json, sorted by name."""
    results = {}
    for name in sorted(needs):
        result = read_json(needs[name] / "result.json", ("metrics", "details", "outcome"))
        if result is None:
            raise ValueError(f"{needs[name]} has no result; submit again to compute it")
        results[name] = result
    return results


def _diverged(names: list[str]) -> Outcome:
    reason = f"runs that it needs diverged: {', '.join(names)}"
    return Outcome(metrics={}, diverged=True, steps=0, details={"reason": reason})


def _write(context: Context, metrics: dict[str, float], checksums: set[Any]) -> Outcome:
    """Return the outcome; its fingerprint is that of the test sets, as no weights are used."""
    checksum = digest_of(sorted(map(str, checksums)))
    context.write_fingerprint(weights="", batches=[checksum])
    return Outcome(metrics=metrics, steps=1, details={"test_checksum": checksum})
