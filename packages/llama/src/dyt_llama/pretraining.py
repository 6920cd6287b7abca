"""Pretraining of LLaMA on token files: the task ``dyt_llama.pretraining:pretrain``.

Sources: CVPR 2025, Section 5; ICLR 2025 submission, Section 4.2; the CVPR release's
other_tasks/LLaMA, which is fms-fsdp with a patched model and another data loader.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dyt import alphas
from dyt_llama import weights
from dyt_llama.chunked_loss import IGNORED
from dyt_llama.config import Pretraining
from dyt_llama.model import (
    Llama,
    build_on_meta,
    checkpoint_layers,
    materialize,
    materialize_calibrated,
    parameter_count,
)
from dyt_llama.token_data import (
    Manifest,
    Samples,
    TokenStream,
    check_fits,
    check_same_tokens,
)
from matched.task import Context, Outcome
from matched.training import Learner, fit, sum_over_ranks
from matched.training.batches import seeded_batch
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks

log = logging.getLogger("matched")

CALIBRATION_SAMPLES = 32
"""Samples that a calibrated α is fitted to: 2,048 tokens at smoke scale."""


def pretrain(context: Context, config: Pretraining) -> Outcome:
    """Train, and evaluate on held-out samples.

    The metric ``loss`` is the training loss that the papers print: the mean over the last
    ``log_steps`` steps, in nats per token. Of the held-out text there are ``validation_loss``,
    ``perplexity`` and ``bits_per_byte`` at the end, and ``best_validation_loss``, the lowest of all
    evaluations. The weights are written to "weights".

    Raises:
        ValueError: if the tokens are missing or damaged, do not fit the network, are fewer than a
            batch or ``train_tokens``, or are not those that a resumed run began with.
    """
    with process_group(context) as device:
        with raise_on_all_ranks():
            manifest = Manifest.read(context.needs["tokens"])
            check_fits(manifest, config.network.vocabulary)
            if context.rank == 0:
                check_same_tokens(context, manifest)
            train = _samples(context, config, manifest, "train")
            held_out = _samples(context, config, manifest, "held_out")
        built = build_on_meta(config.network, config.norm, embedding_scale=config.embedding_scale)
        model = built.model
        checkpoint_layers(model, config.checkpointed)
        if config.compile:
            for layer in model.model.layers:
                # Not the whole model: transformers would then build a mask, and lose flash kernels.
                layer.compile()
        log.info(
            "LLaMA with %s, %s parameters, %s", config.norm, f"{parameter_count(model):,}", train
        )
        learner = Learner(
            model=model,
            optimizer=optimizer(model, config),
            dataset=train,
            loss=mean_loss,
            evaluate=HeldOutLoss(held_out, manifest, config, context, device),
            selection_metric=("validation_loss", "lower"),
            norms=built.differing,
            materialize=make_materialize(context, config, model, train, device),
            alphas=alphas,
        )
        outcome = fit(context, config, learner, device)
        weights.save(context, model, config, manifest)
        on_rank0(lambda: weights.save_tokenizer(context, context.needs["tokens"], manifest))
        return on_rank0(lambda: with_losses(outcome, context.directory))


def make_materialize(
    context: Context, config: Pretraining, model: Llama, train: TokenSamples, device: torch.device
) -> Callable[[], None]:
    """Return the function that allocates the network and sets its initial weights.

    Raises:
        ValueError: if α is to be calibrated in a network that is divided over processes.
    """
    if not config.norm.calibrated:
        return partial(materialize, model, seed=config.seed, device=device)
    if context.shard and context.world_size > 1:
        raise ValueError(
            f"norm is {config.norm}, and the run is sharded, but calibration needs the whole "
            "network; set shard=False in the recipe's resources, or give alpha0 a number"
        )

    def calibrate(network: nn.Module) -> Tensor:
        samples = seeded_batch(train, CALIBRATION_SAMPLES, config.seed, "calibration")
        return mean_loss(network, samples.to(device))

    return partial(materialize_calibrated, model, config, device=device, calibrate=calibrate)


def _samples(context: Context, config: Pretraining, manifest: Manifest, split: Any) -> TokenSamples:
    stream = TokenStream(context.needs["tokens"], manifest, split)
    return TokenSamples(stream, config.length, config.train_tokens if split == "train" else None)


class TokenSamples(Samples):
    """``Samples`` that describe themselves."""

    def __str__(self) -> str:
        return f"{len(self):,} samples of {self.length} tokens"


def optimizer(model: nn.Module, config: Pretraining) -> torch.optim.AdamW:
    """Return AdamW, with weight decay for every parameter or for matrices only."""
    if config.decay == "all":
        groups = [{"params": list(model.parameters()), "weight_decay": config.weight_decay}]
    else:
        parameters = list(model.parameters())
        groups = [
            {
                "params": [p for p in parameters if p.ndim >= 2],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def mean_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of samples (B, T + 1): position t predicts token t + 1."""
    targets = tokens[:, 1:]
    return model(tokens[:, :-1], targets=targets) / targets.numel()


class HeldOutLoss:
    """Evaluation on held-out samples, spread evenly over the held-out text.

    Bits per byte count the text in UTF-8 and the predictions of BOS and EOS, so models with
    different tokenizers can be compared.
    """

    def __init__(
        self,
        samples: Dataset[Tensor],
        manifest: Manifest,
        config: Pretraining,
        context: Context,
        device: torch.device,
    ) -> None:
        self.samples, self.config, self.context, self.device = samples, config, context, device
        available = len(samples)  # type: ignore[arg-type]  # Dataset declares no len()
        count = min(config.eval_samples, available)
        if not count:
            raise ValueError(
                f"the held-out text has fewer than {config.length + 1} tokens; raise held_out of "
                "the tokenization, or add text"
            )
        self.indices = [i * available // count for i in range(count)]
        tokens = manifest.total("held_out", "tokens")
        self.tokens_per_byte = tokens / manifest.total("held_out", "bytes")

    def __call__(self, model: nn.Module) -> dict[str, float]:
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for tokens, targets in self._batches():
            total[0] += model(tokens, targets=targets)
            total[1] += (targets != IGNORED).sum()
        nats, count = sum_over_ranks(total).tolist()
        loss = nats / count
        return {
            "validation_loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "bits_per_byte": loss * self.tokens_per_byte / math.log(2),
        }

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's inputs and targets, in as many batches on every process."""
        context, size = self.context, self.config.eval_batch
        own = self.indices[context.rank :: context.world_size]
        for start in range(0, -(-len(self.indices) // context.world_size), size):
            part = own[start : start + size]
            samples = torch.stack([self.samples[i] for i in part or self.indices[:1]])
            targets = samples[:, 1:] if part else torch.full_like(samples[:, 1:], IGNORED)
            yield samples[:, :-1].to(self.device), targets.to(self.device)


def with_losses(outcome: Outcome, directory: Path) -> Outcome:
    """Add the last logged training loss and the best validation loss, unless the run diverged."""
    if outcome.diverged:
        return outcome
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    best = outcome.best["validation_loss"]
    metrics = {"loss": losses[-1], **outcome.metrics, "best_validation_loss": best}
    return replace(outcome, metrics=metrics)
