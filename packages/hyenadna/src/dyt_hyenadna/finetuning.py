"""Fine-tuning on a task of GenomicBenchmarks: the run of a classifier, and the task of HyenaDNA.

The task ``dyt_hyenadna.finetuning:train``. The metric is the test accuracy in percent, at the epoch
with the best validation accuracy (Caduceus's protocol) or with the best test accuracy (HyenaDNA's).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyt import alphas
from dyt_hyenadna.classification import AccuracyEvaluation, TaskData, load_task
from dyt_hyenadna.config import BenchmarkFineTuning, FineTuning
from dyt_hyenadna.networks import HYENADNA, Networks
from dyt_hyenadna.pretraining import read_pretrained
from matched.task import Context, Outcome
from matched.training import Learner, fit
from matched.training.artifacts import PRETRAINING_DIVERGED, has_diverged
from matched.training.batches import seeded_batch
from matched.training.distributed import process_group

log = logging.getLogger("matched")
CALIBRATION_SEQUENCES = 32
"""Sequences that a calibrated α is fitted to where nothing is pretrained."""


def train(context: Context, config: FineTuning) -> Outcome:
    """Fine-tune HyenaDNA; metrics as ``fine_tune``."""
    return fine_tune(context, config, HYENADNA)


def fine_tune(context: Context, config: BenchmarkFineTuning, networks: Networks) -> Outcome:
    """Fine-tune a classifier and return the accuracies of its best epoch.

    Metrics are ``accuracy`` (test, percent), ``val_accuracy`` if there is a split, ``loss`` (test),
    and ``last_accuracy``, the test accuracy after the last epoch. If the pretraining diverged, the
    outcome says so and nothing is trained.

    Raises:
        ValueError: if the tasks are not prepared, or the pretrained weights belong to another
            network.
    """
    pretraining = context.needs.get("pretrained")
    if pretraining is not None and has_diverged(pretraining):
        return PRETRAINING_DIVERGED
    with process_group(context) as device:
        networks.choose_kernels(context, device.type)
        data = load_task(context, config)
        model = networks.classifier(config, data.classes).to(device)
        inherited: tuple[str, ...] = ()
        if pretraining is None:
            run = partial(run_on_sequences, data, config, device)
            norms = networks.replace_norms(model, config.norm, run)
        else:
            norms = networks.replace_norms(model, config.norm)
            inherited = networks.load_backbone(model, read_pretrained(pretraining))
        log.info("classifier with %s in %d places", config.norm, len(norms))
        learner = Learner(
            model=model,
            optimizer=networks.optimizer(model, config),
            dataset=data.train,
            loss=lambda model, batch: F.cross_entropy(model(batch[0]).float(), batch[1]),
            evaluate=AccuracyEvaluation(data, config, context, device),
            selection_metric=("accuracy" if config.split is None else "val_accuracy", "higher"),
            norms=norms,
            inherited=inherited,
            alphas=alphas,
        )
        outcome = fit(context, config, learner, device)
    return at_best_epoch(outcome, data)


def run_on_sequences(
    data: TaskData, config: BenchmarkFineTuning, device: torch.device, model: nn.Module
) -> Tensor:
    """Run a classifier on training sequences that depend on the seed alone."""
    sequences, _ = seeded_batch(data.train, CALIBRATION_SEQUENCES, config.seed, "calibration")
    logits: Tensor = model(sequences.to(device))
    return logits


def at_best_epoch(outcome: Outcome, data: TaskData) -> Outcome:
    """Return the outcome with the metrics of the best epoch instead of the last one."""
    metrics = {name: value for name, value in outcome.best.items() if name != "step"}
    if "accuracy" in outcome.metrics and not outcome.diverged:
        metrics["last_accuracy"] = outcome.metrics["accuracy"]
    return replace(outcome, metrics=metrics, details={"test_checksum": data.checksum})
