"""The training loop: one process or many, from the first step or from the newest checkpoint.

A domain builds a ``Learner`` (model, optimiser, data, loss, evaluation) and hands it to ``fit``.
Everything that decides the numbers is in the config; everything about the machine is in the
context.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from matched.config import TrainConfig
from matched.training import checkpoint
from matched.training.batches import Division, Order, loader, on_device
from matched.training.distributed import gathered, sum_over_ranks
from matched.training.fingerprint import BATCHES, batch_digest, digest_of, weights_digest
from matched.training.journal import Journal
from matched.training.seeding import reseed
from matched.worker import Context, Outcome

log = logging.getLogger("matched")


class Average(Protocol):
    """A moving average of a model's weights, such as timm's ModelEmaV3."""

    module: nn.Module

    def update(self, model: nn.Module) -> None: ...


@dataclass(kw_only=True)
class Learner:
    """What a domain brings to the loop.

    Attributes:
        model: on the device of this process, converted, initialised.
        optimizer: over the model's parameters; ``lr`` of each group is its peak.
        dataset: map-style; its randomness comes from the global generators, which the loop
            seeds for every sample.
        loss: (model, micro-batch) → mean loss over the micro-batch, a scalar tensor.
        evaluate: model → metrics, the same on every process.
        score: the metric that tells the best evaluation, and which way is better.
        norms: paths of the norm layers, left out of the fingerprint.
        prepare: what is done to a micro-batch on the device, such as mixup; seeded per step.
        average: moving average of the weights, evaluated instead of them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    loss: Callable[[nn.Module, Any], torch.Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    score: tuple[str, str]
    norms: Sequence[str]
    prepare: Callable[[Any], Any] = lambda batch: batch
    average: Average | None = None


@dataclass(kw_only=True)
class Position:
    """Where training stands besides weights and optimiser: what a checkpoint restores."""

    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    diverged: bool = False
    weights: str = ""
    batches: list[str] = field(default_factory=list)
    window: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Loss summed since the last line of metrics.jsonl, number of steps; over all processes."""


def fit(context: Context, config: TrainConfig, learner: Learner, device: torch.device) -> Outcome:
    """Train to the last epoch, or to divergence; resume if there is a checkpoint.

    Raises:
        ValueError: if the batch does not divide over the processes, or a checkpoint is another
            run's.
    """
    return _Loop(context, config, learner, device).run()


def rate_at(step: float, steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Learning rate of optimiser step ``step`` (0-based) as a share of the peak.

    Linear warm-up from 0, then half a cosine from the peak to ``min_lr``, or constant.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    floor = config.min_lr / config.lr
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


class _Loop:
    def __init__(
        self, context: Context, config: TrainConfig, learner: Learner, device: torch.device
    ) -> None:
        self.context, self.config, self.learner, self.device = context, config, learner, device
        self.division = Division.of(config, context.rank, context.world)
        self.checkpoints = context.directory / "checkpoints"
        self.at = Position()
        self.samples = len(learner.dataset)  # type: ignore[arg-type]
        plan = Order(config, self.samples, self.division, 0)
        self.steps, self.steps_per_epoch = plan.steps, plan.steps_per_epoch
        self.journal = Journal(context, self.steps)
        torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        self.autocast = (
            torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext()
        )
        scaled = config.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.window = torch.zeros(2, device=device)  # this process's part of Position.window
        self.peaks = [group["lr"] for group in learner.optimizer.param_groups]
        self.parameters = [p for g in learner.optimizer.param_groups for p in g["params"]]
        self.model: nn.Module = learner.model

    def run(self) -> Outcome:
        self._restore()
        if self.at.step == 0:
            self.at.weights = weights_digest(self.learner.model, self.learner.norms)
        self.journal.start(self.at.step)
        if self.context.world > 1:
            on_gpu = [self.device.index] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.learner.model, device_ids=on_gpu)
        self._train()
        self._save()
        metrics = self.at.last
        if self.at.diverged:
            metrics = {k: v for k, v in self.at.best.items() if k != "step"}
        return Outcome(
            metrics=metrics, diverged=self.at.diverged, steps=self.at.step, best=self.at.best
        )

    def _train(self) -> None:
        """Step to the end, or to divergence."""
        batches = self._batches()
        self.learner.model.train()
        while self.at.step < self.steps and not self.at.diverged:
            rate = self._set_rate()
            self.window[0] += self._step(batches)
            self.window[1] += 1
            self.at.step += 1
            end_of_epoch = self.at.step % self.steps_per_epoch == 0
            if self.at.step % self.config.log_steps == 0 or end_of_epoch:
                self._log(rate)
            if end_of_epoch and self._evaluation_is_due() and not self.at.diverged:
                self._evaluate()
            if self.at.step % self.context.checkpoint_steps == 0 and self.at.step < self.steps:
                self._save()

    def _batches(self) -> Iterator[Any]:
        order = Order(self.config, self.samples, self.division, self.at.step)
        pin = self.device.type == "cuda"
        return iter(loader(self.learner.dataset, order, loaders=self.context.loaders, pin=pin))

    def _step(self, batches: Iterator[Any]) -> torch.Tensor:
        """One optimiser step; returns this process's mean loss, still on the device."""
        accumulation = self.division.accumulation
        total = torch.zeros((), device=self.device)
        seen = []
        for i in range(accumulation):
            batch = on_device(next(batches), self.device)
            # Numbered over all processes, so that each draws alike however the step is divided.
            number = self.context.rank * accumulation + i
            reseed(self.config.seed, "step", self.at.step, number)
            batch = self.learner.prepare(batch)
            if len(self.at.batches) < BATCHES:
                seen.append(batch)
            last = i == accumulation - 1
            wait = nullcontext() if last or self.context.world == 1 else self.model.no_sync()
            with wait:
                with self.autocast:
                    loss = self.learner.loss(self.model, batch) / accumulation
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if seen:
            self._note(seen)
        self._update()
        return total

    def _update(self) -> None:
        optimizer = self.learner.optimizer
        if self.config.clip_norm is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if self.learner.average is not None:
            self.learner.average.update(self.learner.model)

    def _set_rate(self) -> float:
        share = rate_at(self.at.step, self.steps, self.steps_per_epoch, self.config)
        for group, peak in zip(self.learner.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        return self.config.lr * share

    def _log(self, rate: float) -> None:
        """Write the mean loss since the last line; all processes see the same divergence."""
        total, steps = sum_over_ranks(self.window).tolist()
        loss = total / steps
        self.journal.step(self.at.step, self._epoch(), loss=loss, lr=rate)
        if not math.isfinite(loss):
            log.info("diverged at step %d: the loss is %s", self.at.step, loss)
            self.at.diverged = True
        self.window.zero_()

    def _epoch(self) -> float:
        return round(self.at.step / self.steps_per_epoch, 4)

    def _evaluation_is_due(self) -> bool:
        epoch = self.at.step // self.steps_per_epoch
        return epoch % self.config.eval_epochs == 0 or self.at.step == self.steps

    def _evaluate(self) -> None:
        average = self.learner.average
        model = self.learner.model if average is None else average.module
        model.eval()
        # Not inference_mode: a model may keep a tensor that it computes here for its training.
        with torch.no_grad(), self.autocast:
            metrics = self.learner.evaluate(model)
        self.learner.model.train()
        self.journal.evaluation(self.at.step, self._epoch(), metrics)
        if not all(map(math.isfinite, metrics.values())):
            log.info("diverged at step %d: evaluation gives %s", self.at.step, metrics)
            self.at.diverged = True
            return
        self.at.last = metrics
        key, direction = self.learner.score
        sign = 1 if direction == "higher" else -1
        if not self.at.best or sign * metrics[key] > sign * self.at.best[key]:
            self.at.best = {**metrics, "step": self.at.step}

    def _note(self, micro_batches: list[Any]) -> None:
        """Add a step's batches to the fingerprint and write it."""
        own = [batch_digest(batch) for batch in micro_batches]
        # In the order of their numbers, so that the division over processes leaves no trace.
        self.at.batches.append(digest_of([d for digests in gathered(own) for d in digests]))
        self.journal.fingerprint(self.at.weights, self.at.batches)

    def _save(self) -> None:
        self.at.window = sum_over_ranks(self.window.clone()).tolist()
        if self.context.rank == 0:
            started = time.perf_counter()
            checkpoint.save(self.checkpoints, self.at.step, self._state())
            log.info("saved step %d in %.1f s", self.at.step, time.perf_counter() - started)

    def _state(self) -> dict[str, Any]:
        average = self.learner.average
        return {
            "signature": self.context.signature,
            "position": vars(self.at),
            "model": self.learner.model.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if average is None else average.module.state_dict(),
        }

    def _restore(self) -> None:
        state = checkpoint.newest(self.checkpoints, self.context.signature)
        if state is None:
            return
        self.at = Position(**state["position"])
        if self.context.rank == 0:
            self.window = torch.tensor(self.at.window, device=self.device)
        self.learner.model.load_state_dict(state["model"])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.learner.average is not None:
            self.learner.average.module.load_state_dict(state["average"])
        log.info("resumed from step %d of %d", self.at.step, self.steps)
