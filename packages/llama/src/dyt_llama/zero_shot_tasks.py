"""Zero-shot tasks of both papers: data sets, metrics and averages; imports no torch and no lm_eval.

The tasks are those that OpenLLaMA's table lists (openlm-research/open_llama). Each is a definition
of lm-eval; this module has what a user's data is checked against.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ZeroShotTask:
    """A task of lm-eval, and the rows it is scored on.

    Attributes:
        folder: of its definition, below ``lm_eval/tasks``.
        dataset, subset: of the Hugging Face Hub.
        split: that is scored.
        rows: of the split; another number is another version of the data.
        columns: that the definition reads.
        metrics: of the definition; the first is the accuracy that the ICLR submission averages.
    """

    folder: str
    dataset: str
    subset: str = ""
    split: str
    rows: int
    columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("acc",)

    @property
    def source(self) -> str:
        """Name of the data set, such as "allenai/ai2_arc (ARC-Easy), test"."""
        subset = f" ({self.subset})" if self.subset else ""
        return f"{self.dataset}{subset}, {self.split}"


NORMALIZED = ("acc", "acc_norm")


def _anli(number: int, rows: int) -> ZeroShotTask:
    return ZeroShotTask(
        folder="anli",
        dataset="facebook/anli",
        split=f"test_r{number}",
        rows=rows,
        columns=("premise", "hypothesis", "label"),
    )


def _arc(subset: str, rows: int) -> ZeroShotTask:
    return ZeroShotTask(
        folder="arc",
        dataset="allenai/ai2_arc",
        subset=subset,
        split="test",
        rows=rows,
        columns=("question", "choices", "answerKey"),
        metrics=NORMALIZED,
    )


def _truthfulqa() -> ZeroShotTask:
    return ZeroShotTask(
        folder="truthfulqa",
        dataset="truthfulqa/truthful_qa",
        subset="multiple_choice",
        split="validation",
        rows=817,
        columns=("question", "mc1_targets", "mc2_targets"),
    )


FIFTEEN: Mapping[str, ZeroShotTask] = {
    "anli_r1": _anli(1, 1000),
    "anli_r2": _anli(2, 1000),
    "anli_r3": _anli(3, 1200),
    "arc_challenge": _arc("ARC-Challenge", 1172),
    "arc_easy": _arc("ARC-Easy", 2376),
    "boolq": ZeroShotTask(
        folder="super_glue/boolq",
        dataset="aps/super_glue",
        subset="boolq",
        split="validation",
        rows=3270,
        columns=("question", "passage", "label"),
    ),
    "hellaswag": ZeroShotTask(
        folder="hellaswag",
        dataset="Rowan/hellaswag",
        split="validation",
        rows=10_042,
        columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        metrics=NORMALIZED,
    ),
    "openbookqa": ZeroShotTask(
        folder="openbookqa",
        dataset="allenai/openbookqa",
        subset="main",
        split="test",
        rows=500,
        columns=("question_stem", "choices", "answerKey"),
        metrics=NORMALIZED,
    ),
    "piqa": ZeroShotTask(
        folder="piqa",
        dataset="baber/piqa",
        split="validation",
        rows=1838,
        columns=("goal", "sol1", "sol2", "label"),
        metrics=NORMALIZED,
    ),
    "record": ZeroShotTask(
        folder="super_glue/record",
        dataset="aps/super_glue",
        subset="record",
        split="validation",
        rows=10_000,
        columns=("passage", "query", "entities", "answers"),
        metrics=("em", "f1"),
    ),
    "rte": ZeroShotTask(
        folder="glue/rte",
        dataset="nyu-mll/glue",
        subset="rte",
        split="validation",
        rows=277,
        columns=("sentence1", "sentence2", "label"),
    ),
    "truthfulqa_mc1": _truthfulqa(),
    "truthfulqa_mc2": _truthfulqa(),
    "wic": ZeroShotTask(
        folder="super_glue/wic",
        dataset="aps/super_glue",
        subset="wic",
        split="validation",
        rows=638,
        columns=("sentence1", "sentence2", "start1", "end1", "label"),
    ),
    "winogrande": ZeroShotTask(
        folder="winogrande",
        dataset="allenai/winogrande",
        subset="winogrande_xl",
        split="validation",
        rows=1267,
        columns=("sentence", "option1", "option2", "answer"),
    ),
}
"""Name in lm-eval → task, in the order of OpenLLaMA's table."""

GLOSS_WORD = "gloss_word"
"""Task of the smoke scale; see ``dyt_llama.gloss_word``."""

METRICS: Mapping[str, tuple[str, ...]] = {
    **{name: task.metrics for name, task in FIFTEEN.items()},
    GLOSS_WORD: NORMALIZED,
}
"""Task → its metrics, the accuracy first."""


def metric_keys(tasks: Iterable[str]) -> list[str]:
    """Return the keys of all metrics of tasks, such as "arc_easy.acc_norm"."""
    return [f"{task}.{metric}" for task in tasks for metric in METRICS[task]]


def averages(values: Mapping[str, float], tasks: tuple[str, ...]) -> dict[str, float]:
    """Average over tasks in the two ways that fit the papers.

    Both papers print "the" average over 15 tasks. OpenLLaMA, which CVPR 2025 follows, averages all
    21 metrics of these tasks, and CVPR's .513 for 7B fits that; the ICLR submission's 49.3 fits the
    mean of the 15 accuracies.

    Args:
        values: key of ``metric_keys`` → value, as a fraction.

    Returns:
        ``score``, the mean of all metrics as a fraction, and ``accuracy``, the mean of the first
        metric of each task in percent.
    """
    return {
        "score": statistics.fmean(values[key] for key in metric_keys(tasks)),
        "accuracy": 100 * statistics.fmean(values[f"{t}.{METRICS[t][0]}"] for t in tasks),
    }
