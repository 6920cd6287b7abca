"""Validation loss as a mean over several passes with fixed random draws.

fairseq draws masks, crops and distractors again in each validation, and its loss has a noise as
large as the differences that the papers report. Here, pass k draws the same for every run, arm and
seed, and the standard error over passes estimates the noise that remains in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from dyt_wav2vec.trainer import Trainer, stop_loading
from matched.training import reseed, sum_over_ranks

SUMMED_KEYS = ("loss", "loss_0", "correct", "count", "sample_size", "code_perplexity", "batches")
"""Quantities summed over micro-batches: losses in nats, the others as fairseq's criterion logs
them."""


def evaluate(
    trainer: Trainer, passes: int, before_pass: Callable[[], None] = lambda: None
) -> tuple[dict[str, float], list[float]]:
    """Validate; called by all processes of the run, each of which computes a part of the data.

    Args:
        trainer: trainer whose model is validated; the model is left in training mode.
        passes: number of passes.
        before_pass: called before each pass; may raise to end the validation.

    Returns:
        The metrics, and the loss of each pass. "loss" is fairseq's valid_loss: the weighted sum of
        contrastive, diversity and feature losses, in bits per masked time step; "loss_se" is its
        standard error; "contrastive" is the first of the three terms alone; "accuracy" is the
        percentage of masked steps whose target beats all distractors; "code_perplexity" is the
        effective number of codebook entries in use, at most codebooks times entries.
    """
    model = trainer.get_model()
    model.eval()
    trainer.criterion.eval()
    sums = torch.zeros(passes, len(SUMMED_KEYS), dtype=torch.float64)
    for number in range(passes):
        before_pass()
        for sample in validation_batches(trainer, number):
            reseed("evaluation", number, *sample["id"].tolist())
            with torch.no_grad():
                _, size, logged = trainer.criterion(model, trainer.prepare_sample(sample))
            logged = {**logged, "sample_size": size, "batches": 1}
            sums[number] += torch.tensor(
                [float(logged[key]) for key in SUMMED_KEYS], dtype=torch.float64
            )
    model.train()
    trainer.criterion.train()
    per_pass = sum_over_ranks(sums.to(trainer.device)).cpu().T
    totals = dict(zip(SUMMED_KEYS, per_pass, strict=True))
    divisor = totals["sample_size"] * math.log(2)  # per masked step, and from nats to bits
    losses = totals["loss"] / divisor
    metrics = {
        "loss": losses.mean(),
        "loss_se": losses.std() / math.sqrt(passes),
        "contrastive": (totals["loss_0"] / divisor).mean(),
        "accuracy": 100 * totals["correct"].sum() / totals["count"].sum(),
        "code_perplexity": totals["code_perplexity"].sum() / totals["batches"].sum(),
    }
    return {key: value.item() for key, value in metrics.items()}, losses.tolist()


def validation_batches(trainer: Trainer, number: int) -> Iterator[dict[str, Any]]:
    """Yield this process's micro-batches of a pass."""
    dataset = trainer.cfg.dataset
    batches = trainer.task.get_batch_iterator(
        dataset=trainer.task.dataset("valid"),
        max_tokens=dataset.max_tokens_valid,
        required_batch_size_multiple=dataset.required_batch_size_multiple,
        seed=0,  # groups the same utterances into micro-batches in all runs
        num_shards=trainer.data_parallel_world_size,
        shard_id=trainer.data_parallel_rank,
        num_workers=dataset.num_workers,
        epoch=number + 1,
        data_buffer_size=dataset.data_buffer_size,
        disable_iterator_cache=True,
    )
    # If the micro-batches do not divide evenly, the last one of some processes is empty.
    yield from (sample for sample in batches.next_epoch_itr(shuffle=False) if sample)
    stop_loading(batches)
