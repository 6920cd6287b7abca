"""Training loop: a single process or several, from the first step or from the newest checkpoint.

A domain builds a ``Learner`` (model, optimizer, data, loss, evaluation) and passes it to ``fit``.
Everything that determines the numbers is in the config; everything about the machine is in the
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
from matched.signals import Interrupted
from matched.task import Context, Outcome
from matched.training import checkpoint, sharding
from matched.training.batches import BatchLayout, EpochSampler, make_loader, to_device
from matched.training.checkpoint_schedule import CheckpointSchedule
from matched.training.distributed import (
    all_gather_objects,
    broadcast_buffers,
    on_rank0,
    sum_over_ranks,
)
from matched.training.ema import evaluation_model, update_ema
from matched.training.fingerprint import (
    BATCHES,
    batch_digest,
    digest_of,
    divided_weights_digest,
    weights_digest,
)
from matched.training.learner import Learner, StepInfo
from matched.training.measurements import PerformanceMeter, gradient_norm
from matched.training.metrics_log import MetricsLog
from matched.training.schedule import check_warmup, lr_factor
from matched.training.seeding import reseed
from matched.training.training_state import capture_state, restore_state, tensor_layout

log = logging.getLogger("matched")


@dataclass(kw_only=True)
class LoopState:
    """State of the loop besides model, EMA, optimizer and loss scaler; saved in checkpoints.

    Attributes:
        step: completed optimizer steps.
        best: best evaluation by ``selection_metric``, and its step.
        last: last evaluation.
        diverged: True once a loss or an evaluation was not finite.
        weights: fingerprint of the initial weights.
        batches: fingerprints of the first steps' batches.
        windows: of each process, the loss summed since the last line of metrics.jsonl and the
            number of its steps.
    """

    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    diverged: bool = False
    weights: str = ""
    batches: list[str] = field(default_factory=list)
    windows: list[list[float]] = field(default_factory=list)


def fit(context: Context, config: TrainConfig, learner: Learner, device: torch.device) -> Outcome:
    """Train to the last step, or to divergence; resume if there is a checkpoint.

    Raises:
        ValueError: if the batch does not divide over the processes, the warm-up is longer than the
            run, a checkpoint belongs to another run, or the model cannot be sharded or must be.
        OSError: if there is no space for a checkpoint or for a line of metrics.jsonl.
        Interrupted: on all processes, if one received a stop signal; the state is saved.
        LeaseLostError: if another process has taken this run over.
    """
    return _TrainingLoop(context, config, learner, device).run()


class _TrainingLoop:
    def __init__(
        self, context: Context, config: TrainConfig, learner: Learner, device: torch.device
    ) -> None:
        self.context, self.config, self.learner, self.device = context, config, learner, device
        self.batch_layout = BatchLayout.of(config, context.rank, context.world_size)
        self.checkpoints = context.directory / "checkpoints"
        self.state = LoopState()
        self.samples = len(learner.dataset)  # type: ignore[arg-type]  # Dataset declares no len()
        sampler = EpochSampler(config, self.samples, self.batch_layout, 0)
        self.steps, self.steps_per_epoch = sampler.steps, sampler.steps_per_epoch
        check_warmup(config, self.steps, self.steps_per_epoch)
        self.metrics_log = MetricsLog(context, self.steps)
        torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        self.autocast = (
            torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext()
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.window = torch.zeros(2, device=device)
        """This process's entry of ``LoopState.windows``, on the device."""
        self.gradient_norm = torch.zeros((), device=device)
        """Gradient norm of the newest step that is logged, before hooks and clipping."""
        self.meter = PerformanceMeter(device)
        self.peak_lrs = [group["lr"] for group in learner.optimizer.param_groups]
        self.model: nn.Module = learner.model
        """The model that computes the loss: wrapped in DDP if there are several processes."""
        self.sharded = context.shard and context.world_size > 1
        if config.precision in sharding.POLICIES and not self.sharded:
            raise ValueError(
                f"the precision {config.precision!r} needs a run that is sharded over several "
                "processes; set gpus and shard in the recipe's resources, or use 'bf16'"
            )
        self.background: checkpoint.BackgroundWriter | None = None
        if self.sharded and context.async_checkpoints:
            self.background = checkpoint.BackgroundWriter(context.check_ownership)
        self.saved_step: int | None = None
        """Step of the newest checkpoint."""

    def run(self) -> Outcome:
        try:
            self._set_up()
            self._train()
            self._save()
            self._finish_checkpoint()
        finally:
            if self.background is not None:
                self.background.join()
            self.metrics_log.close()
        state = self.state
        metrics = state.last
        if state.diverged:
            metrics = {k: v for k, v in state.best.items() if k != "step"}
        return Outcome(metrics=metrics, diverged=state.diverged, steps=state.step, best=state.best)

    def _set_up(self) -> None:
        """Restore the newest checkpoint, and shard the model or wrap it in DDP."""
        learner = self.learner
        weights = ""
        if learner.materialize is None:  # before the model is sharded or a checkpoint is restored
            weights = weights_digest(learner.model, learner.norms, learner.inherited)
        if self.sharded:
            sharding.shard(
                learner,
                self.device,
                precision=self.config.precision,
                degree=self.context.shard_degree,
            )
        if learner.materialize is not None:
            sharding.materialize(learner)
            weights = divided_weights_digest(learner.model, learner.norms, learner.inherited)
        self._restore()
        if self.state.step == 0:
            self.state.weights = weights
        self.parameters = [p for g in learner.optimizer.param_groups for p in g["params"]]
        self.metrics_log.start(self.state.step)
        if self.context.world_size > 1 and not self.sharded:
            device_ids = [self.device.index] if self.device.type == "cuda" else None
            # Buffers are broadcast after the update instead: evaluation, EMA and checkpoint read
            # them before the next forward pass, where DDP would broadcast them.
            self.model = DistributedDataParallel(
                learner.model, device_ids=device_ids, broadcast_buffers=False
            )

    def _train(self) -> None:
        """Train to the last step, or to divergence."""
        batches = self._batches()
        self.learner.model.train()
        self.meter.restart()
        with CheckpointSchedule(self.context, self._save, self.steps) as checkpoint_schedule:
            while not self._finished():
                self._run_step(batches)
                if self._finished():
                    break
                try:
                    checkpoint_schedule.after_step(self.state.step)
                except Interrupted:
                    self._finish_checkpoint()
                    raise

    def _finished(self) -> bool:
        return self.state.step == self.steps or self.state.diverged

    def _run_step(self, batches: Iterator[Any]) -> None:
        """Run one optimizer step, and log and evaluate if due after it."""
        lr = self._set_lr()
        self.window[0] += self._optimizer_step(batches)
        self.window[1] += 1
        self.state.step += 1
        self.meter.add(self.config.batch)
        if self._log_is_due(self.state.step):
            self._log_step(lr)
        if self._evaluation_is_due(self.state.step) and not self.state.diverged:
            with self.meter.paused():
                self._evaluate()

    def _batches(self) -> Iterator[Any]:
        sampler = EpochSampler(self.config, self.samples, self.batch_layout, self.state.step)
        num_workers, pin = self.context.num_workers, self.device.type == "cuda"
        return iter(make_loader(self.learner.dataset, sampler, num_workers=num_workers, pin=pin))

    def _optimizer_step(self, batches: Iterator[Any]) -> torch.Tensor:
        """Run one optimizer step and return this process's mean loss, on the device."""
        accumulation = self.batch_layout.accumulation
        step_info = StepInfo(
            step=self.state.step, steps=self.steps, steps_per_epoch=self.steps_per_epoch
        )
        self.learner.hooks.before_step(step_info)
        total = torch.zeros((), device=self.device)
        fingerprint_batches = []
        for i in range(accumulation):
            batch = to_device(next(batches), self.device)
            # Numbered over all processes: the random numbers do not depend on how the step is
            # divided over them.
            number = self.context.rank * accumulation + i
            reseed(self.config.seed, "step", self.state.step, number)
            batch = self.learner.prepare(batch)
            if len(self.state.batches) < BATCHES:
                fingerprint_batches.append(batch)
            with self._gradient_sync(last=i == accumulation - 1):
                with self.autocast:
                    loss = self.learner.loss(self.model, batch) / accumulation
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if fingerprint_batches:
            self._record_fingerprint(fingerprint_batches)
        self._update(step_info)
        return total

    def _gradient_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        """All-reduce gradients in the backward pass of a step's last micro-batch only.

        Sharded gradients are reduce-scattered after every micro-batch: until then, each process
        has those of the whole model.
        """
        model: Any = self.model  # FSDP's or DDP's wrapper has these methods
        if self.sharded:
            model.set_requires_all_reduce(last)  # between copies of the weights
        elif self.context.world_size > 1 and not last:
            return model.no_sync()
        return nullcontext()

    def _update(self, step_info: StepInfo) -> None:
        """Update weights and EMA from the gradients."""
        learner = self.learner
        self.scaler.unscale_(learner.optimizer)
        if self._log_is_due(step_info.step + 1):  # not in each step: it reads all gradients
            self.gradient_norm = gradient_norm(self.parameters)
        learner.hooks.on_gradients(step_info)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.scaler.step(learner.optimizer)
        self.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        if self.context.world_size > 1 and not self.sharded:
            broadcast_buffers(learner.model)
        update_ema(learner.ema, learner.model)
        learner.hooks.after_step(step_info)

    def _set_lr(self) -> float:
        factor = lr_factor(self.state.step, self.steps, self.steps_per_epoch, self.config)
        for group, peak in zip(self.learner.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak * factor
        return self.config.lr * factor

    def _log_is_due(self, step: int) -> bool:
        """True if a line is logged when ``step`` steps are completed."""
        at_boundary = step % self.config.log_steps == 0 or step % self.steps_per_epoch == 0
        return at_boundary or self._evaluation_is_due(step)

    def _log_step(self, lr: float) -> None:
        """Log the mean loss since the last line; all processes detect the same divergence."""
        total, steps = sum_over_ranks(self.window).tolist()
        loss = total / steps
        self.metrics_log.step(
            self.state.step,
            self._epoch(),
            loss=loss,
            lr=lr,
            gradient_norm=self.gradient_norm.item(),
            performance=self.meter.read(),
        )
        if not math.isfinite(loss):
            log.info("diverged at step %d: the loss is %s", self.state.step, loss)
            self.state.diverged = True
        self.window.zero_()

    def _epoch(self) -> float:
        return round(self.state.step / self.steps_per_epoch, 4)

    def _evaluation_is_due(self, step: int) -> bool:
        """True if the model is evaluated when ``step`` steps are completed."""
        if step == self.steps:
            return True
        if self.config.eval_steps is not None:
            return step % self.config.eval_steps == 0
        return step % (self.steps_per_epoch * self.config.eval_epochs) == 0

    def _evaluate(self) -> None:
        model = evaluation_model(self.learner.ema, self.learner.model)
        model.eval()
        # Not inference_mode: a model may keep a tensor computed here and use it in training.
        with torch.no_grad(), self.autocast:
            metrics = self.learner.evaluate(model)
        if self.sharded:
            sharding.reshard(model)
        self.learner.model.train()
        state = self.state
        alpha = self.learner.alphas(self.learner.model)
        self.metrics_log.evaluation(state.step, self._epoch(), metrics, alpha)
        if not all(map(math.isfinite, metrics.values())):
            log.info("diverged at step %d: the evaluation is %s", state.step, metrics)
            state.diverged = True
            return
        state.last = metrics
        key, direction = self.learner.selection_metric
        sign = 1 if direction == "higher" else -1
        if not state.best or sign * metrics[key] > sign * state.best[key]:
            state.best = {**metrics, "step": state.step}

    def _record_fingerprint(self, micro_batches: list[Any]) -> None:
        """Add the hash of a step's micro-batches to the fingerprint and write it."""
        own = [batch_digest(batch) for batch in micro_batches]
        # In the order of ranks: the hash does not depend on how the step is divided.
        digests = [digest for of_rank in all_gather_objects(own) for digest in of_rank]
        self.state.batches.append(digest_of(digests))
        self.metrics_log.fingerprint(self.state.weights, self.state.batches)

    def _save(self) -> None:
        """Write a checkpoint, unless there is already one of this step."""
        if self.saved_step != self.state.step:
            with self.meter.paused():
                self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        self.state.windows = all_gather_objects(self.window.tolist())
        start = time.perf_counter()
        on_rank0(self.context.check_ownership)
        training_state = capture_state(
            self.learner,
            signature=self.context.signature,
            position=vars(self.state),
            scaler=self.scaler.state_dict(),
        )
        if self.background is not None:
            self.background.save(self.checkpoints, self.state.step, training_state)
        else:
            checkpoint.save(self.checkpoints, self.state.step, training_state, sharded=self.sharded)
        self.saved_step = self.state.step
        if self.context.rank == 0:
            what = "saved" if self.background is None else "copied"
            log.info("%s step %d in %.1f s", what, self.state.step, time.perf_counter() - start)

    def _finish_checkpoint(self) -> None:
        """Wait for a checkpoint that is written in a thread."""
        if self.background is not None:
            self.background.finish()

    def _restore(self) -> None:
        """Restore the newest checkpoint, if there is one."""
        training_state = checkpoint.load_newest(
            self.checkpoints, self.context.signature, tensor_layout(self.learner)
        )
        if training_state is None:
            return
        plain = training_state.plain
        self.state = LoopState(**plain["position"])
        self.saved_step = self.state.step
        windows = self.state.windows
        if len(windows) == self.context.world_size:
            self.window += torch.tensor(windows[self.context.rank], device=self.device)
        else:  # another number of processes: each gets the mean, which keeps the logged mean
            self.window += torch.tensor(windows, device=self.device).mean(dim=0)
        restore_state(self.learner, training_state)
        self.scaler.load_state_dict(plain["scaler"])
        log.info("resumed from step %d of %d", self.state.step, self.steps)
