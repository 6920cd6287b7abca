"""The training loop: one process or many, from the first step or from the newest checkpoint.

A domain builds a ``Learner`` (model, optimiser, data, loss, evaluation) and hands it to ``fit``.
Everything that decides the numbers is in the config; everything about the machine is in the
context.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from matched.config import TrainConfig
from matched.task import Context, Outcome
from matched.training import checkpoint, sharding
from matched.training.batches import BatchLayout, EpochSampler, make_loader, on_device
from matched.training.checkpoint_schedule import CheckpointSchedule
from matched.training.distributed import (
    all_gather_objects,
    broadcast_buffers,
    on_rank0,
    sum_over_ranks,
)
from matched.training.fingerprint import BATCHES, batch_digest, digest_of, weights_digest
from matched.training.learner import Learner, StepInfo
from matched.training.metrics_log import MetricsLog
from matched.training.schedule import lr_factor
from matched.training.seeding import reseed
from matched.training.training_state import capture_state, restore_state, tensor_layout

log = logging.getLogger("matched")


@dataclass(kw_only=True)
class LoopState:
    """Where training stands besides weights and optimiser: what a checkpoint restores."""

    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    diverged: bool = False
    weights: str = ""
    batches: list[str] = field(default_factory=list)
    windows: list[list[float]] = field(default_factory=list)
    """Loss summed since the last line of metrics.jsonl, and number of steps, of each process."""


def fit(context: Context, config: TrainConfig, learner: Learner, device: torch.device) -> Outcome:
    """Train to the last epoch, or to divergence; resume if there is a checkpoint.

    Raises:
        ValueError: if the batch does not divide over the processes, a checkpoint is another
            run's, or the model cannot be sharded.
        OSError: if there is no room for a checkpoint or for a line of metrics.jsonl.
        Interrupted: if a process was asked to stop; all of them do, and what was reached is saved.
    """
    return _Loop(context, config, learner, device).run()


class _Loop:
    def __init__(
        self, context: Context, config: TrainConfig, learner: Learner, device: torch.device
    ) -> None:
        self.context, self.config, self.learner, self.device = context, config, learner, device
        self.batch_layout = BatchLayout.of(config, context.rank, context.world_size)
        self.checkpoints = context.directory / "checkpoints"
        self.at = LoopState()
        self.samples = len(learner.dataset)  # type: ignore[arg-type]
        plan = EpochSampler(config, self.samples, self.batch_layout, 0)
        self.steps, self.steps_per_epoch = plan.steps, plan.steps_per_epoch
        self.metrics_log = MetricsLog(context, self.steps)
        torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        self.autocast = (
            torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext()
        )
        scaled = config.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.window = torch.zeros(2, device=device)  # this process's of Position.windows
        self.peaks = [group["lr"] for group in learner.optimizer.param_groups]
        self.model: nn.Module = learner.model
        self.sharded = context.shard and context.world_size > 1
        self.saved: int | None = None
        """The step of the newest checkpoint."""

    def run(self) -> Outcome:
        try:
            self._start()
            self._train()
            self._save()
        finally:
            self.metrics_log.close()
        metrics = self.at.last
        if self.at.diverged:
            metrics = {k: v for k, v in self.at.best.items() if k != "step"}
        return Outcome(
            metrics=metrics, diverged=self.at.diverged, steps=self.at.step, best=self.at.best
        )

    def _start(self) -> None:
        """Take up the newest checkpoint, and make one model of all processes' copies or parts."""
        learner = self.learner
        # While they are new, and whole.
        weights = weights_digest(learner.model, learner.norms, learner.inherited)
        if self.sharded:
            sharding.shard(learner, self.device)
        self._restore()
        if self.at.step == 0:
            self.at.weights = weights
        self.parameters = [p for g in learner.optimizer.param_groups for p in g["params"]]
        self.metrics_log.start(self.at.step)
        if self.context.world_size > 1 and not self.sharded:
            on_gpu = [self.device.index] if self.device.type == "cuda" else None
            # Buffers are shared after the update instead: evaluation, average and checkpoint read
            # them before the next forward pass, in which DDP would do it.
            self.model = DistributedDataParallel(
                learner.model, device_ids=on_gpu, broadcast_buffers=False
            )

    def _train(self) -> None:
        """Step to the end, or to divergence."""
        batches = self._batches()
        self.learner.model.train()
        with CheckpointSchedule(self.context, self._save, self.steps) as checkpoint_schedule:
            while not self._over():
                self._advance(batches)
                if not self._over():
                    checkpoint_schedule.after_step(self.at.step)

    def _over(self) -> bool:
        return self.at.step == self.steps or self.at.diverged

    def _advance(self, batches: Iterator[Any]) -> None:
        """One step, and what is to be told and evaluated after it."""
        rate = self._set_rate()
        self.window[0] += self._step(batches)
        self.window[1] += 1
        self.at.step += 1
        end_of_epoch = self.at.step % self.steps_per_epoch == 0
        if self.at.step % self.config.log_steps == 0 or end_of_epoch:
            self._log(rate)
        if end_of_epoch and self._evaluation_is_due() and not self.at.diverged:
            self._evaluate()

    def _batches(self) -> Iterator[Any]:
        order = EpochSampler(self.config, self.samples, self.batch_layout, self.at.step)
        pin = self.device.type == "cuda"
        return iter(
            make_loader(self.learner.dataset, order, num_workers=self.context.num_workers, pin=pin)
        )

    def _step(self, batches: Iterator[Any]) -> torch.Tensor:
        """One optimiser step; returns this process's mean loss, still on the device."""
        accumulation = self.batch_layout.accumulation
        step_info = StepInfo(
            step=self.at.step, steps=self.steps, steps_per_epoch=self.steps_per_epoch
        )
        self.learner.hooks.before_step(step_info)
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
            with self._exchange(last=i == accumulation - 1):
                with self.autocast:
                    loss = self.learner.loss(self.model, batch) / accumulation
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if seen:
            self._note(seen)
        self._update(step_info)
        return total

    def _exchange(self, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged in the backward pass of a step's last micro-batch alone."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)
        elif self.context.world_size > 1 and not last:
            return self.model.no_sync()
        return nullcontext()

    def _update(self, step_info: StepInfo) -> None:
        optimizer = self.learner.optimizer
        self.scaler.unscale_(optimizer)
        self.learner.hooks.on_gradients(step_info)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if self.context.world_size > 1 and not self.sharded:
            broadcast_buffers(self.learner.model)
        if self.learner.ema is not None:
            self.learner.ema.update(self.learner.model)
        self.learner.hooks.after_step(step_info)

    def _set_rate(self) -> float:
        share = lr_factor(self.at.step, self.steps, self.steps_per_epoch, self.config)
        for group, peak in zip(self.learner.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        return self.config.lr * share

    def _log(self, rate: float) -> None:
        """Write the mean loss since the last line; all processes see the same divergence."""
        total, steps = sum_over_ranks(self.window).tolist()
        loss = total / steps
        self.metrics_log.step(self.at.step, self._epoch(), loss=loss, lr=rate)
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
        ema = self.learner.ema
        model = self.learner.model if ema is None else ema.module
        model.eval()
        # Not inference_mode: a model may keep a tensor that it computes here for its training.
        with torch.no_grad(), self.autocast:
            metrics = self.learner.evaluate(model)
        if self.sharded:
            sharding.reshard(model)
        self.learner.model.train()
        self.metrics_log.evaluation(self.at.step, self._epoch(), metrics)
        if not all(map(math.isfinite, metrics.values())):
            log.info("diverged at step %d: evaluation gives %s", self.at.step, metrics)
            self.at.diverged = True
            return
        self.at.last = metrics
        key, direction = self.learner.selection_metric
        sign = 1 if direction == "higher" else -1
        if not self.at.best or sign * metrics[key] > sign * self.at.best[key]:
            self.at.best = {**metrics, "step": self.at.step}

    def _note(self, micro_batches: list[Any]) -> None:
        """Add a step's batches to the fingerprint and write it."""
        own = [batch_digest(batch) for batch in micro_batches]
        # In the order of their numbers, so that the division over processes leaves no trace.
        self.at.batches.append(
            digest_of([d for digests in all_gather_objects(own) for d in digests])
        )
        self.metrics_log.fingerprint(self.at.weights, self.at.batches)

    def _save(self) -> None:
        """Write a checkpoint unless there is one of this step."""
        if self.saved == self.at.step:
            return
        self.at.windows = all_gather_objects(self.window.tolist())
        started = time.perf_counter()
        on_rank0(self.context.check_ownership)
        state = capture_state(
            self.learner,
            signature=self.context.signature,
            position=vars(self.at),
            scaler=self.scaler.state_dict(),
        )
        checkpoint.save(self.checkpoints, self.at.step, state, sharded=self.sharded)
        self.saved = self.at.step
        if self.context.rank == 0:
            log.info("saved step %d in %.1f s", self.at.step, time.perf_counter() - started)

    def _restore(self) -> None:
        state = checkpoint.load_newest(
            self.checkpoints, self.context.signature, tensor_layout(self.learner)
        )
        if state is None:
            return
        self.at = LoopState(**state.plain["position"])
        self.saved = self.at.step
        windows = self.at.windows
        if len(windows) == self.context.world_size:
            self.window += torch.tensor(windows[self.context.rank], device=self.device)
        else:
            self.window += torch.tensor(windows, device=self.device).mean(dim=0)
        restore_state(self.learner, state)
        self.scaler.load_state_dict(state.plain["scaler"])
        log.info("resumed from step %d of %d", self.at.step, self.steps)
