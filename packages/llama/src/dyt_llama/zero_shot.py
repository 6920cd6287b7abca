"""Zero-shot scores of a trained network by lm-eval: the task ``dyt_llama.zero_shot:score``.

Blocks of a task's documents are scored one by one, by any number of processes, and written to a
file each, so a killed run continues with the blocks it lacks. Which documents are scored together
depends on neither.

Sources: CVPR 2025, Section 5 (lm-eval, 15 zero-shot tasks); ICLR 2025 submission, Section 4.2.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cached_property
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dyt_llama import weights
from dyt_llama.config import ZeroShot
from dyt_llama.lm_eval_tasks import load_tasks
from dyt_llama.zero_shot_data import rows_digest
from dyt_llama.zero_shot_tasks import METRICS, averages
from matched.files import read_json, write_json
from matched.task import Context, Outcome
from matched.training.artifacts import has_diverged
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks
from matched.training.file_tasks import make_files, remove_stale_files
from matched.training.fingerprint import digest_of

log = logging.getLogger("matched")
BLOCK = 256
"""Documents that are scored together."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def score(context: Context, config: ZeroShot) -> Outcome:
    """Score a network on tasks; keep blocks that are already complete.

    Metrics are those of the training, ``score`` and ``accuracy`` (see
    ``zero_shot_tasks.averages``), and each metric of each task as a fraction, such as
    "arc_easy.acc_norm". ``details`` has the versions of lm-eval and of the tasks.

    Raises:
        ValueError: if the weights, the tokenizer or the data of a task are missing or unusable.
    """
    pretrained = context.needs["pretrained"]
    result = read_json(pretrained / "result.json", ("metrics",))
    if result is None:
        raise ValueError(f"{pretrained} has no result; submit again to compute it")
    if has_diverged(pretrained):
        reason = {"reason": "the pretraining diverged"}
        return Outcome(metrics=result["metrics"], diverged=True, steps=0, details=reason)
    with process_group(context) as device, _global_generators_kept():
        with raise_on_all_ranks():
            scoring = Scoring(context, config, device)
        on_rank0(scoring.prepare)
        make_files(context, scoring.folder, list(scoring.blocks), scoring.write_block)
        return on_rank0(lambda: scoring.outcome(result["metrics"]))


class Block(NamedTuple):
    """Consecutive documents of a task: from ``start`` up to, not including, ``stop``."""

    task: str
    start: int
    stop: int


class Scoring:
    """The tasks with their documents, and the files of their blocks.

    Attributes:
        folder: of the files. Its name has a hash of what they were computed from, so files of
            other data, or of a network that was trained again, are not used.
        tasks: name → lm-eval's task.
        rows: name → its documents, before lm-eval's processing.
        digests: name → hash of these.
        blocks: name of a file → its block.
    """

    def __init__(self, context: Context, config: ZeroShot, device: torch.device) -> None:
        self.context, self.config, self.device = context, config, device
        self.weights = context.needs["pretrained"] / weights.FOLDER
        with _quiet():
            self.tasks = load_tasks(config.tasks, context.data.get("zero-shot"))
        self.rows = {name: _documents(task) for name, task in self.tasks.items()}
        self.digests = {name: rows_digest(rows) for name, rows in self.rows.items()}
        result = (context.needs["pretrained"] / "result.json").read_text(encoding="utf-8")
        origin = digest_of((version("lm_eval"), result, *self.digests.values()))
        self.folder = context.directory / f"blocks-{origin[:12]}"
        self.blocks = {
            f"{name}-{start // BLOCK:04d}.json": Block(name, start, min(start + BLOCK, len(rows)))
            for name, rows in self.rows.items()
            for start in range(0, len(rows), BLOCK)
        }

    @cached_property
    def model(self) -> Any:
        """The network for lm-eval; loaded when the first block is scored."""
        from dyt_llama.lm_eval_model import DyTLlamaLM

        return DyTLlamaLM(
            str(self.weights),
            device=str(self.device),
            dtype=DTYPES[self.config.precision],
            batch_size=self.config.batch,
        )

    def prepare(self) -> None:
        """Delete blocks of another origin and write the fingerprint; call on rank 0.

        The fingerprint has a hash of the documents, and no weights.
        """
        stale = [path for path in self.context.directory.glob("blocks-*") if path != self.folder]
        remove_stale_files(self.context, stale)
        self.context.write_fingerprint(weights="", batches=[digest_of(self.digests.values())])

    def write_block(self, name: str, path: Path) -> None:
        """Score a block by lm-eval, and write each metric of its documents."""
        from lm_eval.evaluator import evaluate

        block = self.blocks[name]
        task = self.tasks[block.task]
        _set_documents(task, self.rows[block.task].select(range(block.start, block.stop)))
        with _quiet():
            model, cut = self.model, self.model.cut
            results = evaluate(
                model, {"tasks": {block.task: task}}, bootstrap_iters=0, log_samples=True
            )
        samples = results["samples"][block.task]
        write_json(
            path,
            {
                "cut": model.cut - cut,
                "values": {m: [float(s[m]) for s in samples] for m in METRICS[block.task]},
            },
        )

    def outcome(self, trained: dict[str, float]) -> Outcome:
        """Return the scores of all tasks; call on rank 0 when all blocks are there.

        Args:
            trained: metrics of the training.
        """
        tasks = {name: self._aggregate(name) for name in self.tasks}
        values = {
            f"{name}.{metric}": task[metric]
            for name, task in tasks.items()
            for metric in METRICS[name]
        }
        warnings = [
            f"{name}: {task['cut']:,} prompts are longer than the network's positions, and were "
            "cut from the left"
            for name, task in tasks.items()
            if task["cut"]
        ]
        folder = self.context.data.get("zero-shot")
        return Outcome(
            metrics={**trained, **averages(values, self.config.tasks), **values},
            steps=len(self.blocks),
            details={
                "lm_eval": version("lm_eval"),
                "tasks": tasks,
                "warnings": warnings,
                **({} if folder is None else {"data": folder.name}),
            },
        )

    def _aggregate(self, name: str) -> dict[str, Any]:
        """Return a task's metrics, aggregated over its documents by lm-eval, and what it is."""
        files = [self.folder / file for file, block in self.blocks.items() if block.task == name]
        parts = [read_json(file, ("cut", "values")) or {} for file in files]
        task, metrics = self.tasks[name], {}
        for metric in METRICS[name]:
            values = [value for part in parts for value in part["values"][metric]]
            metrics[metric] = float(task.aggregation()[metric](values))
        return {
            "version": task.VERSION,
            "documents": len(self.rows[name]),
            "data": self.digests[name],
            "cut": sum(part["cut"] for part in parts),
            **metrics,
        }


def _split(task: Any) -> str:
    """Return the split that lm-eval scores: the test split, or else the one for validation."""
    split: str = task.get_config("test_split") or task.get_config("validation_split")
    return split


def _documents(task: Any) -> Any:
    return task.dataset[_split(task)]


def _set_documents(task: Any, rows: Any) -> None:
    task.dataset = {_split(task): rows}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's progress bars, and what it logs about every prompt; errors are raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and torch, from which lm-eval may draw."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
