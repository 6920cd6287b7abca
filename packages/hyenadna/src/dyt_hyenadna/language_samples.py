"""Inputs and targets of genome windows for a pretraining objective, and the held-out loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from dyt_hyenadna.config import GenomePretraining
from dyt_hyenadna.objectives import divide_windows, token_loss_sum, unigram_entropy
from dyt_hyenadna.tokenizer import PAD, PADDED_VOCABULARY, SEP
from matched.task import Context
from matched.training import Hooks, StepInfo, sum_over_ranks
from matched.training.evaluation import FixedSamples, RankSubset

Pair = tuple[Tensor, Tensor]
Objective = Callable[[Tensor], Pair]
"""Ids ``(L,)`` → inputs and targets; draws from torch's global generator."""


class LanguageSamples(Dataset[Pair]):
    """Inputs and targets of windows, drawn from torch's global generator.

    Args:
        windows: map-style; its items are ids ``(L,)``, int64.
        objective: ids → inputs and targets.
    """

    def __init__(self, windows: Any, objective: Objective) -> None:
        self.windows, self.objective = windows, objective

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Pair:
        return self.objective(self.windows[index])


def spread_evenly(dataset: Any, count: int) -> Any:
    """Return ``count`` items at equal distances, or the data set if it has no more than these."""
    total = len(dataset)
    if count >= total:
        return dataset
    return Subset(dataset, [i * total // count for i in range(count)])


class LanguageEvaluation:
    """Loss in nats per base, accuracy in percent, and the loss of the best constant prediction.

    The constant prediction uses the shares of the bases: its loss is their unigram entropy. [SEP],
    which every window ends with, is not counted: it needs no look at the bases.
    """

    def __init__(
        self,
        samples: Dataset[Pair],
        config: GenomePretraining,
        context: Context,
        device: torch.device,
    ) -> None:
        fixed = FixedSamples(samples, config.seed)
        self.subset = RankSubset(fixed, config.eval_batch, context, device)
        self.device = device

    def __call__(self, model: nn.Module) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        counts = torch.zeros(PADDED_VOCABULARY, dtype=torch.float64, device=self.device)
        remaining = self.subset.count
        for inputs, targets in self.subset.loader:
            logits = model(inputs.to(self.device, non_blocking=True))[:remaining]
            targets = targets.to(self.device, non_blocking=True)[:remaining]
            remaining -= len(targets)
            targets = targets.masked_fill(targets == SEP, PAD)
            loss, _ = token_loss_sum(logits, targets)
            correct = ((logits.argmax(-1) == targets) & (targets != PAD)).sum()
            sums += torch.stack([loss.double(), correct.double()])
            counts += targets.flatten().bincount(minlength=PADDED_VOCABULARY)
        counts[PAD] = 0
        loss, correct = sum_over_ranks(sums).tolist()
        total = max(1.0, sum_over_ranks(counts).sum().item())
        return {
            "loss": loss / total,
            "accuracy": 100 * correct / total,
            "unigram_loss": unigram_entropy(counts),
        }


class LengthStages(Hooks):
    """Warm-up of the sequence length: windows are divided into the sequences of a stage.

    HyenaDNA warms the length up by stages in which the batch grows as the length shrinks (its
    callback ``seqlen_warmup_reload``); a step sees the same number of bases in both.
    """

    def __init__(self, config: GenomePretraining) -> None:
        self.stages, self.full = config.length_stages, config.length
        self.length = config.length

    def before_step(self, step_info: StepInfo) -> None:
        self.length = self.length_at(step_info.step)

    def length_at(self, step: int) -> int:
        """Return the sequence length of a step."""
        for steps, length in self.stages:
            if step < steps:
                return length
            step -= steps
        return self.full

    def divide(self, pair: Pair) -> Pair:
        """Divide the windows of a micro-batch: ``(B, L)`` → ``(B · L / length, length)``."""
        return divide_windows(pair, self.length)
