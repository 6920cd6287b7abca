"""Verdicts on the papers' claims from the results of one scale: the scorecard of the report.

Intervals are of 95 % and not corrected for the number of claims. Each row is judged by itself; a
claim is supported if all of them support it, and refuted if one refutes it.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from matched.audit import differ
from matched.claims import (
    Above,
    Better,
    CellKey,
    Claim,
    Constant,
    Diverges,
    Falls,
    NotWorse,
)
from matched.entries import Entry
from matched.formatting import MISSING, format_number
from matched.report import intervals
from matched.report.collect import Results, TableResults
from matched.table import Metric
from matched.wording import counted


class Verdict(StrEnum):
    """The outcome of a claim's test."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Part:
    """The verdict on one row or pair of a claim.

    Attributes:
        detail: the statistic with its interval, or why there is none.
        more_seeds: seeds that would decide, if mean and spread stay; None if unknown or decided.
        at_least: True if more may be needed, because the spread is not known yet.
    """

    label: str
    verdict: Verdict
    detail: str
    more_seeds: int | None = None
    at_least: bool = False


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with its verdict at one scale."""

    claim: Claim
    scale: str
    verdict: Verdict
    parts: tuple[Part, ...]

    @property
    def seeds_needed(self) -> str:
        """The seeds that would decide, such as "7 more seeds"; empty if that is unknown."""
        undecided = [part for part in self.parts if part.verdict is Verdict.UNDECIDED]
        known = [part.more_seeds for part in undecided if part.more_seeds is not None]
        if self.verdict is not Verdict.UNDECIDED or not known:
            return ""
        exact = len(known) == len(undecided) and not any(part.at_least for part in undecided)
        words = counted(max(known), "more seed")
        return words if exact else f"at least {words}"


def judge_claims(claims: Iterable[Claim], results: Results) -> list[list[Judged]]:
    """Return for each claim its verdicts, one for each scale that has results."""
    scales = list(dict.fromkeys(table.scale.name for table in results.tables))
    evidence = {scale: _Evidence(results, scale) for scale in scales}
    return [[_judge(claim, evidence[scale], scale) for scale in scales] for claim in claims]


def _judge(claim: Claim, evidence: _Evidence, scale: str) -> Judged:
    if claim.test is None:
        parts = [Part(label="", verdict=Verdict.NOT_RUN, detail=claim.missing)]
    elif isinstance(claim.test, NotWorse):
        parts = list(_judge_not_worse(claim.test, evidence))
    elif isinstance(claim.test, Better):
        parts = [
            _judge_pair(claim.test, pair, metric, evidence)
            for pair in claim.test.pairs
            for metric in claim.test.metrics or ("",)
        ]
    elif isinstance(claim.test, Diverges):
        parts = [_judge_divergence(key, evidence) for key in claim.test.cells]
    elif isinstance(claim.test, (Falls, Constant)):
        parts = list(_judge_series(claim.test, evidence))
    else:
        parts = [_judge_above(claim.test, key, evidence) for key in claim.test.cells]
    return Judged(claim=claim, scale=scale, verdict=_overall(parts), parts=tuple(parts))


def _overall(parts: Sequence[Part]) -> Verdict:
    verdicts = {part.verdict for part in parts}
    if Verdict.REFUTED in verdicts:
        return Verdict.REFUTED
    return verdicts.pop() if len(verdicts) == 1 else Verdict.UNDECIDED


class _Evidence:
    """The entries of all tables of one scale, by table, row, arm and metric."""

    def __init__(self, results: Results, scale: str) -> None:
        self.tables: dict[str, TableResults] = {
            _key(table, results.project): table
            for table in results.tables
            if table.scale.name == scale
        }
        self._entries: dict[tuple[str, str, str, str], Entry] = {
            (name, entry.row, entry.arm, entry.metric.key): entry
            for name, table in self.tables.items()
            for entry in table.summary.entries
            if entry.runs  # none in a row that leaves the arm out
        }

    def label(self, key: CellKey) -> str:
        """Return a name such as "ViT-B, DyT (table1)"."""
        table = self.tables.get(key.table)
        row = table.recipe.label(key.row, table.scale) if table else key.row
        name = table.recipe.name if table else key.table
        return f"{row}, {key.arm} ({name})"

    def entry(self, key: CellKey, metric: str = "") -> Entry | None:
        """Return an entry by the row's first metric or the given one; None without results.

        A row with searches may have other metrics than the first of its table.
        """
        if key.table not in self.tables:
            return None
        table = self.tables[key.table]
        keys = [metric] if metric else [one.key for one in table.recipe.metrics(table.scale)]
        entries = (self._entries.get((key.table, key.row, key.arm, one)) for one in keys)
        return next((entry for entry in entries if entry is not None), None)


def _key(table: TableResults, project: Path) -> str:
    """Return the name that claims use: a table's, or the path of a recipe file."""
    if table.recipe.paper:
        return table.recipe.name
    return os.path.relpath(table.recipe.path, project).replace(os.sep, "/")


def _judge_not_worse(test: NotWorse, evidence: _Evidence) -> Iterator[Part]:
    for name in test.tables:
        table = evidence.tables.get(name)
        if table is None:
            yield Part(label=name, verdict=Verdict.NOT_RUN, detail="no runs at this scale")
            continue
        than = test.than or table.recipe.table.baseline.name
        if test.arm not in [arm.name for arm in table.recipe.table.arms]:
            detail = f"the table has no arm {test.arm}; `--with {test.arm}` adds it"
            yield Part(label=name, verdict=Verdict.NOT_RUN, detail=detail)
            continue
        for row in table.scale.runs:
            base, other = (
                evidence.entry(CellKey(table=name, row=row, arm=arm)) for arm in (than, test.arm)
            )
            if base is not None and other is not None:
                label = f"{table.recipe.label(row, table.scale)} ({name})"
                margin = _largest_change(table, base.metric.key, test.arm, than)
                yield _compare(label, other, base, margin=max(margin, _spread(base)))


def _largest_change(table: TableResults, metric: str, arm: str, than: str) -> float:
    """Return the largest change that the paper prints in a metric, or 0.

    It is that between the two arms where the paper prints both, or else that of any arm from the
    baseline.
    """
    entries = [entry for entry in table.summary.entries if entry.metric.key == metric]
    printed = {(entry.row, entry.arm): entry.printed.get(metric) for entry in entries}
    pairs = [(printed.get((e.row, arm)), printed.get((e.row, than))) for e in entries]
    between = [a - b for a, b in pairs if a is not None and b is not None]
    changes = [entry.printed_delta for entry in entries if entry.printed_delta is not None]
    return max(map(abs, between or changes), default=0.0)


def _spread(entry: Entry) -> float:
    """Return the standard deviation over seeds; 0 where it is unknown."""
    std = entry.ours.std
    return std if std is not None and math.isfinite(std) else 0.0


def _judge_pair(
    test: Better, pair: tuple[CellKey, CellKey], metric: str, evidence: _Evidence
) -> Part:
    relation = " not worse than " if test.within_spread else " better than "
    label = relation.join(map(evidence.label, pair))
    better, worse = (evidence.entry(key, metric) for key in pair)
    if better is None or worse is None:
        return Part(label=label, verdict=Verdict.NOT_RUN, detail="no runs at this scale")
    if metric:
        label = f"{label}, {better.metric.label}"
    return _compare(label, better, worse, margin=_spread(worse) if test.within_spread else 0.0)


def _compare(label: str, better: Entry, worse: Entry, *, margin: float) -> Part:
    """Judge that one cell is better than another, or with a margin that it is not worse."""
    if "no" in (better.matched, worse.matched):
        return Part(label=label, verdict=Verdict.UNDECIDED, detail="not matched")
    if _always_diverges(better) and _always_diverges(worse):
        detail = f"nothing to compare: {better.arm} and {worse.arm} diverged in all seeds"
        return Part(label=label, verdict=Verdict.UNDECIDED, detail=detail)
    for cell, verdict in ((better, Verdict.REFUTED), (worse, Verdict.SUPPORTED)):
        if _always_diverges(cell):
            return Part(label=label, verdict=verdict, detail=f"{cell.arm} diverged in all seeds")
    sign = -1 if better.metric.direction == "lower" else 1
    seeds = better.ours.values.keys() & worse.ours.values.keys()
    left_out = {seed for seed in seeds if differ(better.hardware[seed], worse.hardware[seed])}
    values = [
        sign * (better.ours.values[seed] - worse.ours.values[seed])
        for seed in sorted(seeds - left_out)
    ]
    if left_out and not values:
        detail = "no pair was computed on one hardware"
        return Part(label=label, verdict=Verdict.UNDECIDED, detail=detail)
    reference = worse.ours.mean or 0.0
    within = f", margin {format_number(better.metric, margin, reference)}" if margin else ""
    if left_out:
        within += f", {len(left_out)} more on different hardware"
    part = _above(label, values, -margin, better.metric, reference, suffix=within)
    if better.ours.diverged and part.verdict is Verdict.SUPPORTED:
        detail = f"{part.detail}; {better.arm} diverged in {counted(better.ours.diverged, 'seed')}"
        return Part(label=label, verdict=Verdict.UNDECIDED, detail=detail)
    return part


def _always_diverges(cell: Entry) -> bool:
    return cell.ours.diverged > 0 and cell.ours.diverged == len(cell.ours.states)


def _judge_above(test: Above, key: CellKey, evidence: _Evidence) -> Part:
    label = evidence.label(key)
    entry = evidence.entry(key, test.metric)
    if entry is None:
        return Part(label=label, verdict=Verdict.NOT_RUN, detail="no runs at this scale")
    values = list(entry.ours.values.values())
    return _above(label, values, test.threshold, entry.metric, entry.ours.mean or 0.0)


def _above(
    label: str,
    values: Sequence[float],
    threshold: float,
    metric: Metric,
    reference: float,
    suffix: str = "",
) -> Part:
    """Judge that a mean is above a threshold.

    Args:
        reference: sets the number of decimals in the detail.
        suffix: added to the detail.
    """
    if not values:
        return Part(label=label, verdict=Verdict.NOT_RUN, detail="no finished runs")
    if not all(map(math.isfinite, values)):
        return Part(label=label, verdict=Verdict.UNDECIDED, detail="a value is not a number")
    mean = statistics.fmean(values)
    text = f"{format_number(metric, mean, reference)} {metric.unit}".strip()
    if len(values) == 1:
        detail = f"{text}, 1 seed{suffix}: an interval needs 2 at least"
        return Part(
            label=label, verdict=Verdict.UNDECIDED, detail=detail, more_seeds=1, at_least=True
        )
    low, high = intervals.mean_interval(values)
    ends = " to ".join(format_number(metric, end, reference) for end in (low, high))
    detail = f"{text}, 95 % interval {ends}, {len(values)} seeds{suffix}"
    if low > threshold or high < threshold:
        verdict = Verdict.SUPPORTED if low > threshold else Verdict.REFUTED
        return Part(label=label, verdict=verdict, detail=detail)
    needed = intervals.seeds_to_decide(values, threshold)
    more = None if needed is None else needed - len(values)
    return Part(label=label, verdict=Verdict.UNDECIDED, detail=detail, more_seeds=more)


def _judge_series(test: Falls | Constant, evidence: _Evidence) -> Iterator[Part]:
    """Judge each series of cells, and each value that is searched for, by itself."""
    for name in test.tables:
        table = evidence.tables.get(name)
        if table is None:
            yield Part(label=name, verdict=Verdict.NOT_RUN, detail="no runs at this scale")
            continue
        for metric in test.metrics:
            series: dict[str, list[Entry]] = {}
            for entry in table.summary.entries:
                if entry.metric.key == metric and entry.search:
                    key = entry.arm if test.along == "rows" else entry.row
                    series.setdefault(key, []).append(entry)
            for key, entries in series.items():
                shown = table.scale.labels.get(key, key)
                label = f"{entries[0].metric.label}, {shown} ({name})"
                if len(entries) > 1:
                    yield _judge_one_series(test, label, entries)


def _judge_one_series(test: Falls | Constant, label: str, entries: Sequence[Entry]) -> Part:
    seeds = set.intersection(*(set(entry.ours.values) for entry in entries))
    best = [entry.ours.found for entry in entries]
    found = " → ".join(MISSING if value is None else f"{value:g}" for value in best)
    if any(entry.ours.values[seed] <= 0 for entry in entries for seed in seeds):
        detail = f"best {found}; a best value of 0 or below has no logarithm to compare"
        return Part(label=label, verdict=Verdict.UNDECIDED, detail=detail)
    logs = [[math.log2(entry.ours.values[seed]) for entry in entries] for seed in sorted(seeds)]
    metric = Metric(key="", label="", unit="octaves", direction="none")
    if isinstance(test, Falls):
        values, threshold = [-_slope(one) for one in logs], 0.0
        statistic = "falls per cell by"
    else:
        # The values tried are round numbers: a range of exactly the factor is within it.
        values, threshold = [math.log2(test.factor) - max(one) + min(one) for one in logs], -1e-9
        statistic = f"within a factor of {test.factor:g} by"
    part = _above(label, values, threshold, metric, 1.0)
    return replace(part, detail=f"best {found}; {statistic} {part.detail}")


def _slope(values: Sequence[float]) -> float:
    """Return the least-squares slope of values against their position."""
    positions = range(len(values))
    return statistics.linear_regression(positions, values).slope


def _judge_divergence(key: CellKey, evidence: _Evidence) -> Part:
    label = evidence.label(key)
    entry = evidence.entry(key)
    finished = 0 if entry is None else sum(s.finished for s in entry.ours.states)
    if entry is None or not finished:
        return Part(label=label, verdict=Verdict.NOT_RUN, detail="no finished runs at this scale")
    diverged = entry.ours.diverged
    low, high = intervals.share_interval(diverged, finished)
    detail = (
        f"{diverged} of {counted(finished, 'seed')} diverged, 95 % interval {low:.0%} to {high:.0%}"
    )
    if low > 0.5 or high < 0.5:
        verdict = Verdict.SUPPORTED if low > 0.5 else Verdict.REFUTED
        return Part(label=label, verdict=verdict, detail=detail)
    needed = intervals.seeds_to_decide_share(diverged, finished, 0.5)
    more = None if needed is None else needed - finished
    return Part(label=label, verdict=Verdict.UNDECIDED, detail=detail, more_seeds=more)


def counts(judged: Iterable[Judged]) -> Mapping[Verdict, int]:
    """Return the number of claims by verdict."""
    found = dict.fromkeys(Verdict, 0)
    for one in judged:
        found[one.verdict] += 1
    return found
