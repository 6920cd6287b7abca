"""The validation loss as a mean over passes, each of which draws the same for all runs.

fairseq draws them anew each time, and its loss has a noise as large as the differences that the
papers report. Here pass k of any run, arm and seed draws alike, and the standard error of the mean
over passes says what is left of that noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from dyt_wav2vec.trainer import Trainer, stop_loading
from matched.training import reseed, sum_over_ranks

KEYS = ("loss", "loss_0", "correct", "count", "sample_size", "code_perplexity", "batches")
"""What is summed: losses in nats, and the rest as fairseq's criterion tells it."""


def evaluate(
    trainer: Trainer, passes: int, between: Callable[[], None] = lambda: None
) -> tuple[dict[str, float], list[float]]:
    """Validate; called by all processes of the run, each of which has a share of the data.

    Args:
        trainer: its model is left in training mode.
        passes: how many.
        between: called before each of them; may raise to end it.

    Returns:
        The metrics and the loss of each pass. "loss" is fairseq's valid_loss: the weighted sum of
        contrastive, diversity and feature losses, in bits for each masked time step; "loss_se" its
        standard error; "contrastive" the first of the terms alone; "accuracy" the share in percent
        of masked steps whose target beats all distractors; "code_perplexity" how many entries of
        the codebooks are in use, at most codebooks times entries.
    """
    model = trainer.get_model()
    model.eval()
    trainer.criterion.eval()
    sums = torch.zeros(passes, len(KEYS), dtype=torch.float64)
    for number in range(passes):
        between()
        for sample in _batches(trainer, number):
            reseed("evaluation", number, *sample["id"].tolist())
            with torch.no_grad():
                _, size, told = trainer.criterion(model, trainer.prepared(sample))
            told = {**told, "sample_size": size, "batches": 1}
            sums[number] += torch.tensor([float(told[key]) for key in KEYS], dtype=torch.float64)
    model.train()
    trainer.criterion.train()
    of = dict(zip(KEYS, sum_over_ranks(sums.to(trainer.device)).cpu().T, strict=True))
    bits = of["sample_size"] * math.log(2)
    losses = of["loss"] / bits
    metrics = {
        "loss": losses.mean(),
        "loss_se": losses.std() / math.sqrt(passes),
        "contrastive": (of["loss_0"] / bits).mean(),
        "accuracy": 100 * of["correct"].sum() / of["count"].sum(),
        "code_perplexity": of["code_perplexity"].sum() / of["batches"].sum(),
    }
    return {key: value.item() for key, value in metrics.items()}, losses.tolist()


def _batches(trainer: Trainer, number: int) -> Iterator[dict[str, Any]]:
    """The micro-batches of a pass for this process."""
    dataset = trainer.cfg.dataset
    batches = trainer.task.get_batch_iterator(
        dataset=trainer.task.dataset("valid"),
        max_tokens=dataset.max_tokens_valid,
        required_batch_size_multiple=dataset.required_batch_size_multiple,
        seed=0,  # which utterances are together, the same for all runs
        num_shards=trainer.data_parallel_world_size,
        shard_id=trainer.data_parallel_rank,
        num_workers=dataset.num_workers,
        epoch=number + 1,
        data_buffer_size=dataset.data_buffer_size,
        disable_iterator_cache=True,
    )
    # Of an uneven number of micro-batches, some processes have none in the end.
    yield from (sample for sample in batches.next_epoch_itr(shuffle=False) if sample)
    stop_loading(batches)
