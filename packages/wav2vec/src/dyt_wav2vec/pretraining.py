"""Pretraining of wav2vec 2.0 with fairseq's own trainer: the task of a run.

fairseq provides the model, the batches, the losses and the updates. Stopping, checkpointing,
resuming and logging are the harness's.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from dyt import alphas
from dyt_wav2vec import fairseq_api, fairseq_compat, fairseq_config, manifests, model
from dyt_wav2vec.config import Pretraining
from dyt_wav2vec.evaluation import evaluate
from dyt_wav2vec.preparation import MANIFEST_FOLDER, load_manifest
from dyt_wav2vec.sources import SAMPLE_RATE
from dyt_wav2vec.trainer import Trainer, stop_loading
from matched import signals
from matched.task import Context, Outcome
from matched.training import checkpoint
from matched.training.checkpoint_schedule import CheckpointSchedule
from matched.training.distributed import all_gather_objects, on_rank0, process_group
from matched.training.fingerprint import BATCHES, batch_digest, digest_of, weights_digest
from matched.training.measurements import PerformanceMeter
from matched.training.metrics_log import MetricsLog

log = logging.getLogger("matched")
MIN_LOSS_SCALE_MESSAGE = "Minimum loss scale reached"
"""Start of fairseq's error when 16-bit gradients overflow at the smallest loss scale."""


@dataclass(kw_only=True)
class Progress:
    """State of a run that checkpoints contain in addition to the trainer's.

    Attributes:
        evaluated: update after which ``last`` was measured.
        best, last: best and last evaluation.
        passes: loss of each pass of the last evaluation.
        diverged: True once training has diverged.
        weights: digest of the initial weights.
        batches: digests of the first batches.
        lr: learning rate of the last update.
        log_sums: sums since the last line of metrics.jsonl, over all processes.
    """

    evaluated: int = 0
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    passes: list[float] = field(default_factory=list)
    diverged: bool = False
    weights: str = ""
    batches: list[str] = field(default_factory=list)
    lr: float = 0.0
    log_sums: dict[str, float] = field(default_factory=dict)


def pretrain(context: Context, config: Pretraining) -> Outcome:
    """Train to the last update or until divergence; resume if there is a checkpoint.

    Raises:
        ValueError: if files of the preparation were moved or all are too short, the micro-batches
            do not divide over the processes, a checkpoint is another run's, or fairseq is missing.
        OSError: if the disk is full.
        Interrupted: if a process was asked to stop; a checkpoint has been saved.
    """
    with (
        process_group(context) as device,
        fairseq_compat.isolated_state(context.world_size),
        quiet_fairseq(),
    ):
        speech = on_rank0(partial(write_manifest, context, config))
        return PretrainingRun(context, config, device, speech).run()


def write_manifest(context: Context, config: Pretraining) -> str:
    """Write the manifests that fairseq reads into the run directory; return their checksum."""
    context.check_ownership()
    path = context.data.get(config.data)
    manifest = load_manifest(context.needs["speech"], config.data, path, context)
    for split in manifests.SPLITS:
        if max(getattr(manifest, split).values()) < config.min_sample_size:
            raise ValueError(
                f"no file of {split}.tsv has {config.min_sample_size} samples "
                f"({config.min_sample_size / SAMPLE_RATE:g} s) or more; add longer files or lower "
                "min_sample_size"
            )
    manifests.write(manifest, context.owned_path(MANIFEST_FOLDER))
    return manifest.checksum


@contextmanager
def quiet_fairseq() -> Iterator[None]:
    """Hide fairseq's log lines per epoch and the warnings that only editing it could avoid."""
    with warnings.catch_warnings():
        for message in (
            *("weight_norm", "torch.cuda.amp", "pin_memory", "requires_grad=True to a"),
            "non-full backward hook",  # of fairseq's search for the origin of a NaN
        ):
            warnings.filterwarnings("ignore", f"(?s).*{message}")
        logger = logging.getLogger("fairseq")
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


class PretrainingRun:
    """A pretraining in one process of a run.

    Args:
        speech: checksum of the manifests, which a checkpoint must match.
    """

    def __init__(
        self, context: Context, config: Pretraining, device: torch.device, speech: str
    ) -> None:
        self.context, self.config, self.speech = context, config, speech
        self.checkpoints = context.directory / "checkpoints"
        self.progress = Progress()
        folder = context.directory / MANIFEST_FOLDER
        self.cfg = fairseq_config.merged_config(
            fairseq_config.training_overrides(config),
            fairseq_config.runtime_overrides(config, context, folder, device),
        )
        self.micro_batches = config.micro_batches_per_update // context.world_size
        """Micro-batches of an update in this process."""
        self.meter = PerformanceMeter(device)
        self.saved: int | None = None
        """Update of the newest checkpoint."""
        self.resumed_iterator: dict[str, Any] | None = None
        """Iterator state of the loaded checkpoint, which fairseq's iterator reports only after it
        has advanced."""

    def run(self) -> Outcome:
        self.build()
        self._restore()
        self.per_epoch = math.ceil(len(self.epochs) / self.micro_batches)
        steps = self.config.updates
        if self.config.epochs is not None:
            steps = min(steps, self.config.epochs * self.per_epoch)
        self.metrics_log = MetricsLog(self.context, steps)
        try:
            self.metrics_log.start(self.update)
            self._train()
            self._save()
        finally:
            self.metrics_log.close()
        metrics = self.progress.last
        if self.progress.diverged:
            metrics = {key: value for key, value in self.progress.best.items() if key != "step"}
        return Outcome(
            metrics=metrics,
            diverged=self.progress.diverged,
            steps=self.update,
            best=self.progress.best,
            details={"loss_of_passes": self.progress.passes, "speech": self.speech},
        )

    @property
    def update(self) -> int:
        """Number of completed updates."""
        return self.trainer.get_num_updates()

    def build(self) -> None:
        """Build task, model and trainer, with fairseq's order and seeds."""
        model.reseed(self.config.seed)
        task = fairseq_api.tasks.setup_task(self.cfg.task)
        self.model = task.build_model(self.cfg.model)
        self.progress.weights = weights_digest(self.model, self.model.norms)
        criterion = task.build_criterion(self.cfg.criterion)
        task.load_dataset("valid", combine=False, epoch=1)
        self.trainer = Trainer(self.cfg, task, self.model, criterion)
        log.info("wav2vec 2.0 with %d norm layers: %s", len(self.model.norms), self.config.norm)

    def _restore(self) -> None:
        """Load the newest intact checkpoint; the batches continue where it was saved."""
        state = checkpoint.load_newest_file(
            self.checkpoints, self.context.signature, lambda s: s["extra_state"]["signature"]
        )
        if state is None:
            self.epochs = self.trainer.get_train_iterator(epoch=1)
            return
        extra = state["extra_state"]
        if extra["speech"] != self.speech:
            raise ValueError(
                f"the checkpoints in {self.checkpoints} were trained on other speech than the "
                f"current data; delete {self.context.directory} to restart this run"
            )
        self.trainer.load_full_state(state)
        self.progress = Progress(**extra["progress"])
        self.saved = self.update
        # Counted in micro-batches per process, and the number of processes may have changed.
        iterator = dict(extra["train_iterator"])
        iterator["iterations_in_epoch"] //= extra["micro_batches"]
        iterator["iterations_in_epoch"] *= self.micro_batches
        self.epochs = self.trainer.get_train_iterator(epoch=iterator["epoch"])
        self.epochs.load_state_dict(iterator)
        self.resumed_iterator = iterator
        log.info("resumed from update %d of %d", self.update, self.config.updates)

    def _train(self) -> None:
        """Train to the last update or until divergence, then validate."""
        try:
            with CheckpointSchedule(
                self.context, self._save, self.metrics_log.steps
            ) as checkpoint_schedule:
                if self.update and self._is_due() and not self.progress.diverged:
                    self._evaluate()  # the run was interrupted in this validation
                self.meter.restart()
                while not self._is_finished():
                    self._train_epoch(checkpoint_schedule)
        finally:
            stop_loading(self.epochs)
        if self.progress.log_sums and not self.progress.diverged:
            self._log()
        if not self.progress.diverged:
            self._evaluate()

    def _is_finished(self) -> bool:
        if self.update >= self.config.updates or self.progress.diverged:
            return True
        return self.config.epochs is not None and self.epochs.next_epoch_idx > self.config.epochs

    def _train_epoch(self, checkpoint_schedule: CheckpointSchedule) -> None:
        """Train on the rest of an epoch, in the same way as fairseq's own loop."""
        self.resumed_iterator = None
        batches = self.epochs.next_epoch_itr(fix_batches_to_gpus=False, shuffle=True)
        self.trainer.begin_epoch(self.epochs.epoch)
        for samples in fairseq_api.GroupedIterator(batches, self.micro_batches):
            self._train_step(samples)
            if self.update >= self.config.updates or self.progress.diverged:
                return
            checkpoint_schedule.after_step(self.update)
        stop_loading(self.epochs)
        self.trainer.lr_step(self.epochs.epoch)
        self.epochs = self.trainer.get_train_iterator(
            self.epochs.next_epoch_idx, load_dataset=False
        )

    def _train_step(self, samples: list[dict[str, Any]]) -> None:
        """Do one update, then log and validate if due."""
        if len(self.progress.batches) < BATCHES:
            self._add_to_fingerprint(samples)
        self.progress.lr = self.trainer.get_lr()
        try:
            logged = self.trainer.train_step(samples, raise_oom=True)
        except FloatingPointError as error:
            finite = math.isfinite(self.trainer.gradient_norm or 0.0)
            if finite and MIN_LOSS_SCALE_MESSAGE not in str(error):
                raise
            log.info("diverged after update %d: %s", self.update, str(error).partition("\n")[0])
            self.progress.diverged = True
            return
        if logged is None:  # gradients overflowed 16 bits; the loss scale has been reduced
            return
        self._add_to_log_sums()
        if self.update % self.config.log_updates == 0 or self.update == self.config.updates:
            self._log()
        if self._is_due():
            self._evaluate()

    def _add_to_fingerprint(self, samples: list[dict[str, Any]]) -> None:
        """Add an update's batches to the fingerprint and write it."""
        local = [batch_digest(sample) for sample in samples if sample]
        # Sorted, so the digest does not depend on the number of processes. The manifests' checksum
        # is included because the arms of a pair must not differ in later batches either.
        digests = sorted(digest for rank in all_gather_objects(local) for digest in rank)
        self.progress.batches.append(digest_of([self.speech, *digests]))
        self.metrics_log.fingerprint(self.progress.weights, self.progress.batches)

    def _add_to_log_sums(self) -> None:
        """Add the last update's values, unrounded from fairseq's meters, to the logging sums."""

        def value(name: str) -> float:
            return float(fairseq_api.metrics.get_meter("train", name).val)

        self.meter.add(int(value("nsentences")), peak_mib=self.trainer.peak_memory_mib())
        size = value("ntokens")
        values = {
            "updates": 1.0,
            "size": size,
            "loss": size * value("loss"),
            "contrastive": size * value("loss_0"),
            "correct": value("_correct"),
            "total": value("_total"),
            "gradient_norm": self.trainer.gradient_norm or 0.0,
            **{name: value(name) for name in ("code_perplexity", "prob_perplexity", "temp")},
        }
        sums = self.progress.log_sums
        for name, number in values.items():
            sums[name] = sums.get(name, 0.0) + number

    def _log(self) -> None:
        """Write a line to the log: means since the last one, and the current values of α."""
        sums, self.progress.log_sums = self.progress.log_sums, {}
        updates, size = sums["updates"], sums["size"]
        means = ("code_perplexity", "prob_perplexity", "temp")
        more: dict[str, Any] = {
            "contrastive": sums["contrastive"] / size,
            "accuracy": 100 * sums["correct"] / sums["total"],
            **{name: sums[name] / updates for name in means},
        }
        if self.config.precision == "fp16":
            more["loss_scale"] = self.trainer.optimizer.scaler.loss_scale
        if alpha := alphas(self.model):
            more["alpha"] = alpha
        self.metrics_log.step(
            self.update,
            self._epochs(),
            loss=sums["loss"] / size,
            lr=self.progress.lr,
            gradient_norm=sums["gradient_norm"] / updates,
            performance=self.meter.read(),
            **more,
        )

    def _epochs(self) -> float:
        return round(self.update / self.per_epoch, 4)

    def _is_due(self) -> bool:
        """True if a validation is due after this update."""
        return self.update % self.config.eval_updates == 0

    def _evaluate(self) -> None:
        """Validate, unless this update has been validated already."""
        if self.progress.evaluated == self.update:
            return
        with self.meter.paused():
            metrics, passes = evaluate(self.trainer, self.config.eval_passes, self._check_for_stop)
        self.metrics_log.evaluation(self.update, self._epochs(), metrics, alphas(self.model))
        if not all(map(math.isfinite, metrics.values())):
            log.info("diverged: validation gives %s", metrics)
            self.progress.diverged = True
            return
        self.progress.evaluated = self.update
        self.progress.last, self.progress.passes = metrics, passes
        self.saved = None  # a checkpoint saved before this validation lacks its result
        if not self.progress.best or metrics["loss"] < self.progress.best["loss"]:
            self.progress.best = {**metrics, "step": self.update}

    def _check_for_stop(self) -> None:
        """Stop the run between validation passes if requested; a resumed run validates again.

        Raises:
            Interrupted: on all processes, if one was asked to stop; a checkpoint has been saved.
        """
        if any(all_gather_objects(signals.stop_signal() is not None)):
            self._save()
            log.info("interrupted in the validation after update %d; saved", self.update)
            raise signals.Interrupted

    def _save(self) -> None:
        """Write a checkpoint, unless this update has one."""
        if self.saved != self.update:
            with self.meter.paused():
                self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        started = time.perf_counter()
        on_rank0(self.context.check_ownership)
        state = self.trainer.full_state(
            signature=self.context.signature,
            speech=self.speech,
            progress=vars(self.progress),
            train_iterator=self.resumed_iterator or self.epochs.state_dict(),
            micro_batches=self.micro_batches,
        )
        checkpoint.save_file(self.checkpoints, self.update, state)
        self.saved = self.update
        if self.context.rank == 0:
            log.info("saved update %d in %.1f s", self.update, time.perf_counter() - started)
