"""Pretraining on a genome: the run of a language model, and the task of HyenaDNA.

The task ``dyt_hyenadna.pretraining:pretrain``. The metric is the loss of windows of the validation
intervals, in nats per predicted base; the run writes the weights for fine-tuning.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dyt import alphas
from dyt_hyenadna.config import Cut, GenomePretraining, Pretraining
from dyt_hyenadna.datasets import GenomeWindows
from dyt_hyenadna.intervals import Windows
from dyt_hyenadna.language_samples import (
    LanguageEvaluation,
    LanguageSamples,
    LengthStages,
    Objective,
    spread_evenly,
)
from dyt_hyenadna.networks import HYENADNA, Networks
from dyt_hyenadna.objectives import next_token, token_loss
from dyt_hyenadna.preparation import load_genome
from matched.task import Context, Outcome
from matched.training import Learner, fit
from matched.training.artifacts import gather_state_dict, load_artifact, save_artifact
from matched.training.batches import seeded_batch
from matched.training.distributed import process_group

log = logging.getLogger("matched")
PRETRAINED_FILE = "pretrained.pth"
UNLEARNED_MARGIN = 0.01
"""Nats below the unigram entropy that a network must reach to count as having learned something."""
CALIBRATION_POSITIONS = 8192
"""Bases that a calibrated α is fitted to, if a window has no more."""


def pretrain(context: Context, config: Pretraining) -> Outcome:
    """Pretrain HyenaDNA on the next token; the metric is ``loss``, of held-out windows."""
    return pretrain_network(context, config, HYENADNA, next_token)


def pretrain_network(
    context: Context, config: GenomePretraining, networks: Networks, objective: Objective
) -> Outcome:
    """Pretrain a language model on a genome, and write its weights."""
    with process_group(context) as device:
        networks.choose_kernels(context, device.type)
        train, held_out = load_samples(context, config, objective)
        model = networks.language_model(config).to(device)
        run = partial(run_on_windows, train, config, device)
        norms = networks.replace_norms(model, config.norm, run)
        log.info("language model with %s in %d places", config.norm, len(norms))
        stages = LengthStages(config)
        learner = Learner(
            model=model,
            optimizer=networks.optimizer(model, config),
            dataset=train,
            loss=lambda model, pair: token_loss(model(pair[0]), pair[1]),
            evaluate=LanguageEvaluation(held_out, config, context, device),
            selection_metric=("loss", "lower"),
            norms=norms,
            prepare=stages.divide,
            hooks=stages,
            alphas=alphas,
        )
        outcome = fit(context, config, learner, device)
        state = {"model": gather_state_dict(model.state_dict())}
        save_artifact(context, PRETRAINED_FILE, state)
        return replace(outcome, details={"warnings": plateau_warnings(outcome)})


def run_on_windows(
    samples: LanguageSamples, config: GenomePretraining, device: torch.device, model: nn.Module
) -> Tensor:
    """Run a network on windows of the training intervals that depend on the seed alone."""
    count = max(1, CALIBRATION_POSITIONS // config.length)
    inputs, targets = seeded_batch(samples, count, config.seed, "calibration")
    return token_loss(model(inputs.to(device)), targets.to(device))


def load_samples(
    context: Context, config: GenomePretraining, objective: Objective
) -> tuple[LanguageSamples, LanguageSamples]:
    """Return the samples of training and of the evaluation.

    Raises:
        ValueError: if no preparation is named, or the genome changed since.
    """
    if "genome" not in context.needs:
        raise ValueError('pretraining needs a preparation of the genome under the name "genome"')
    source = config.data
    genome, intervals = load_genome(context.needs["genome"], source, context.data.get(source))

    def windows(split: str, cut: Cut, flip: float) -> GenomeWindows:
        cuts = Windows(intervals[split], genome.lengths, config.length, cut)
        return GenomeWindows(
            genome,
            cuts,
            flip=flip,
            upper_case=config.upper_case,
            n_as_pad=not config.predict_n,
        )

    train = windows("train", config.cut, config.flip)
    has_tiles = any(x.end - x.start >= config.length for x in intervals["valid"])
    cut: Cut = "tiles" if has_tiles else config.cut
    held_out = windows("valid", cut, config.flip if config.flip_evaluation else 0.0)
    spread = spread_evenly(held_out, config.eval_samples)
    return LanguageSamples(train, objective), LanguageSamples(spread, objective)


def plateau_warnings(outcome: Outcome) -> list[str]:
    """Return a warning for a network that predicts no better than the shares of the bases.

    DyT may stay there when the embedding starts small: the inputs of its first layer, times α₀, are
    so far below 1 that tanh is linear (ICLR 2025 submission, Section 4.2).
    """
    loss, unigram = outcome.metrics.get("loss"), outcome.metrics.get("unigram_loss")
    if loss is None or unigram is None or loss < unigram - UNLEARNED_MARGIN:
        return []
    return [
        f"pretraining never left the unigram entropy: its loss is {loss:.3f} nats, and predicting "
        f"the shares of the bases everywhere gives {unigram:.3f}"
    ]


def read_pretrained(directory: Path) -> dict[str, Tensor]:
    """Return the state dict that a pretraining run wrote.

    Raises:
        ValueError: if the file is missing or damaged; the message says how to recreate it.
    """
    try:
        state: dict[str, Tensor] = load_artifact(directory / PRETRAINED_FILE)["model"]
    except ValueError as error:
        raise ValueError(
            f"{error}. The pretraining has ended: delete {directory / 'result.json'} and submit "
            "again, which recreates the file from the last checkpoint"
        ) from error
    return state
