"""Pretrains a wav2vec 2.0 with fairseq's own trainer, inside a run of the harness.

fairseq makes the model, the batches, the losses and the updates. What ends, saves, resumes and
tells of a run is the harness's.
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

from dyt_wav2vec import fairseq_compat, fairseq_config, model, upstream
from dyt_wav2vec.config import Pretraining
from dyt_wav2vec.evaluation import evaluate
from dyt_wav2vec.manifests import NAMES, RATE, write
from dyt_wav2vec.preparation import LISTS, prepared
from dyt_wav2vec.trainer import Trainer, stop_loading
from matched import signals
from matched.task import Context, Outcome
from matched.training import checkpoint
from matched.training.checkpoint_schedule import CheckpointSchedule
from matched.training.distributed import all_gather_objects, on_rank0, process_group
from matched.training.fingerprint import BATCHES, batch_digest, digest_of, weights_digest
from matched.training.metrics_log import MetricsLog

log = logging.getLogger("matched")
EXPLODED = "Minimum loss scale reached"
"""How fairseq's message begins where 16-bit gradients overflow however they are scaled."""


@dataclass(kw_only=True)
class Position:
    """Where training stands besides what the trainer knows: what a checkpoint restores."""

    evaluated: int = 0
    """The update after which ``last`` was measured."""
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    passes: list[float] = field(default_factory=list)
    diverged: bool = False
    weights: str = ""
    batches: list[str] = field(default_factory=list)
    rate: float = 0.0
    """Of learning, in the last update."""
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last line of metrics.jsonl, over all processes."""


def pretrain(context: Context, config: Pretraining) -> Outcome:
    """Train to the last update, or to divergence; resume if there is a checkpoint.

    Raises:
        ValueError: if files of the preparation were moved or all are too short, the micro-batches
            do not divide over the processes, a checkpoint is another run's, or fairseq is missing.
        OSError: if there is no room for a checkpoint or for a line of metrics.jsonl.
        Interrupted: if a process was asked to stop; what was reached is saved.
    """
    with process_group(context) as device, fairseq_compat.one_run(context.world_size), _quiet():
        speech = on_rank0(partial(_lay_out, context, config))
        return _Pretraining(context, config, device, speech).run()


def _lay_out(context: Context, config: Pretraining) -> str:
    """Write the lists that fairseq reads into the run's directory; their checksum."""
    path = context.data.get(config.data)
    manifest = prepared(context.needs["speech"], config.data, path, context)
    for name in NAMES:
        if max(getattr(manifest, name).values()) < config.min_sample_size:
            raise ValueError(
                f"no file of {name}.tsv has the {config.min_sample_size} samples "
                f"({config.min_sample_size / RATE:g} s) that min_sample_size asks for; add longer "
                "ones, or lower it"
            )
    write(manifest, context.owned_path(LISTS))
    return manifest.checksum


@contextmanager
def _quiet() -> Iterator[None]:
    """Without fairseq's words on every epoch, and warnings that only editing it would end."""
    with warnings.catch_warnings():
        for message in (
            *("weight_norm", "torch.cuda.amp", "pin_memory", "requires_grad=True to a"),
            "non-full backward hook",  # by which fairseq finds where a NaN comes from
        ):
            warnings.filterwarnings("ignore", f"(?s).*{message}")
        talk = logging.getLogger("fairseq")
        level = talk.level
        talk.setLevel(logging.WARNING)
        try:
            yield
        finally:
            talk.setLevel(level)


class _Pretraining:
    def __init__(
        self, context: Context, config: Pretraining, device: torch.device, speech: str
    ) -> None:
        self.context, self.config, self.speech = context, config, speech
        self.checkpoints = context.directory / "checkpoints"
        self.at = Position()
        lists = context.directory / LISTS
        self.cfg = fairseq_config.whole(
            fairseq_config.settings(config), fairseq_config.here(config, context, lists, device)
        )
        self.micro_batches = config.shards // context.world_size
        """Of an update, for this process."""
        self.saved: int | None = None
        """The update of the newest checkpoint."""
        self.started: dict[str, Any] | None = None
        """Where the checkpoint had fairseq's iterator, which cannot say so before it moves on."""

    def run(self) -> Outcome:
        self._build()
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
        metrics = self.at.last
        if self.at.diverged:
            metrics = {k: v for k, v in self.at.best.items() if k != "step"}
        return Outcome(
            metrics=metrics,
            diverged=self.at.diverged,
            steps=self.update,
            best=self.at.best,
            details={"loss_of_passes": self.at.passes, "speech": self.speech},
        )

    @property
    def update(self) -> int:
        """How many updates are done."""
        return self.trainer.get_num_updates()

    def _build(self) -> None:
        """Model, task and trainer, in fairseq's order and from its seeds."""
        model.reseed(self.config.seed)
        task = upstream.tasks.setup_task(self.cfg.task)
        self.model = task.build_model(self.cfg.model)
        self.at.weights = weights_digest(self.model, self.model.norms)
        criterion = task.build_criterion(self.cfg.criterion)
        task.load_dataset("valid", combine=False, epoch=1)
        self.trainer = Trainer(self.cfg, task, self.model, criterion)
        log.info("wav2vec 2.0 with %s in %d places", self.config.norm, len(self.model.norms))

    def _restore(self) -> None:
        """Take up the newest whole checkpoint; the batches go on where it left them."""
        state = checkpoint.load_newest_file(
            self.checkpoints, self.context.signature, lambda s: s["extra_state"]["signature"]
        )
        if state is None:
            self.epochs = self.trainer.get_train_iterator(epoch=1)
            return
        extra = state["extra_state"]
        if extra["speech"] != self.speech:
            raise ValueError(
                f"the checkpoints in {self.checkpoints} were trained on other speech than there is "
                f"now; delete {self.context.directory} to start this run from the beginning"
            )
        self.trainer.restore(state)
        self.at = Position(**extra["position"])
        self.saved = self.update
        # Counted in micro-batches of a process, of which there may have been another number.
        begun = dict(extra["train_iterator"])
        begun["iterations_in_epoch"] //= extra["micro_batches"]
        begun["iterations_in_epoch"] *= self.micro_batches
        self.epochs = self.trainer.get_train_iterator(epoch=begun["epoch"])
        self.epochs.load_state_dict(begun)
        self.started = begun
        log.info("resumed from update %d of %d", self.update, self.config.updates)

    def _train(self) -> None:
        """Update to the end, or to divergence, and validate then."""
        try:
            with CheckpointSchedule(
                self.context, self._save, self.metrics_log.steps
            ) as checkpoint_schedule:
                if self.update and self._is_due() and not self.at.diverged:
                    self._evaluate()  # in which the run was interrupted
                while not self._over():
                    self._epoch(checkpoint_schedule)
        finally:
            stop_loading(self.epochs)
        if self.at.window and not self.at.diverged:
            self._log()
        if not self.at.diverged:
            self._evaluate()

    def _over(self) -> bool:
        if self.update >= self.config.updates or self.at.diverged:
            return True
        return self.config.epochs is not None and self.epochs.next_epoch_idx > self.config.epochs

    def _epoch(self, checkpoint_schedule: CheckpointSchedule) -> None:
        """What is left of a pass over the data, as fairseq's own loop goes through it."""
        self.started = None
        batches = self.epochs.next_epoch_itr(fix_batches_to_gpus=False, shuffle=True)
        self.trainer.begin_epoch(self.epochs.epoch)
        for samples in upstream.GroupedIterator(batches, self.micro_batches):
            self._advance(samples)
            if self.update >= self.config.updates or self.at.diverged:
                return
            checkpoint_schedule.after_step(self.update)
        stop_loading(self.epochs)
        self.trainer.lr_step(self.epochs.epoch)
        self.epochs = self.trainer.get_train_iterator(
            self.epochs.next_epoch_idx, load_dataset=False
        )

    def _advance(self, samples: list[dict[str, Any]]) -> None:
        """One update, and what is to be told and validated after it."""
        if len(self.at.batches) < BATCHES:
            self._note(samples)
        self.at.rate = self.trainer.get_lr()
        try:
            told = self.trainer.train_step(samples, raise_oom=True)
        except FloatingPointError as error:
            if math.isfinite(self.trainer.gradient_norm or 0.0) and EXPLODED not in str(error):
                raise
            log.info("diverged after update %d: %s", self.update, str(error).partition("\n")[0])
            self.at.diverged = True
            return
        if told is None:  # gradients overflowed 16 bits, and the loss is scaled by less from now on
            return
        self._count()
        if self.update % self.config.log_updates == 0 or self.update == self.config.updates:
            self._log()
        if self._is_due():
            self._evaluate()

    def _note(self, samples: list[dict[str, Any]]) -> None:
        """Add an update's batches to the fingerprint and write it."""
        own = [batch_digest(sample) for sample in samples if sample]
        # Sorted, so that the division over processes leaves no trace. With the lists' checksum:
        # arms of a pair must not differ in batches that come later either.
        seen = sorted(digest for digests in all_gather_objects(own) for digest in digests)
        self.at.batches.append(digest_of([self.speech, *seen]))
        self.metrics_log.fingerprint(self.at.weights, self.at.batches)

    def _count(self) -> None:
        """Add to the window what fairseq's meters, which round nothing, say of the last update."""

        def value(name: str) -> float:
            return float(upstream.metrics.get_meter("train", name).val)

        size = value("ntokens")
        seen = {
            "updates": 1.0,
            "size": size,
            "loss": size * value("loss"),
            "contrastive": size * value("loss_0"),
            "correct": value("_correct"),
            "total": value("_total"),
            "gradient_norm": self.trainer.gradient_norm or 0.0,
            **{name: value(name) for name in ("code_perplexity", "prob_perplexity", "temp")},
        }
        for name, number in seen.items():
            self.at.window[name] = self.at.window.get(name, 0.0) + number

    def _log(self) -> None:
        """A line of metrics.jsonl: means since the last one, and every α as it is now."""
        window, self.at.window = self.at.window, {}
        updates, size = window["updates"], window["size"]
        means = ("gradient_norm", "code_perplexity", "prob_perplexity", "temp")
        more: dict[str, Any] = {
            "contrastive": window["contrastive"] / size,
            "accuracy": 100 * window["correct"] / window["total"],
            **{name: window[name] / updates for name in means},
        }
        if self.config.precision == "fp16":
            more["loss_scale"] = self.trainer.optimizer.scaler.loss_scale
        if alphas := self._alphas():
            more["alpha"] = alphas
        loss = window["loss"] / size
        self.metrics_log.step(self.update, self._epochs(), loss=loss, lr=self.at.rate, **more)

    def _alphas(self) -> dict[str, float]:
        """Path of each norm that has a learnable α → its value."""
        found = {p: getattr(self.model.get_submodule(p), "alpha", None) for p in self.model.norms}
        return {path: alpha.item() for path, alpha in found.items() if alpha is not None}

    def _epochs(self) -> float:
        return round(self.update / self.per_epoch, 4)

    def _is_due(self) -> bool:
        """Whether it is time for a validation."""
        return self.update % self.config.eval_updates == 0

    def _evaluate(self) -> None:
        """Validate, unless that was done after this update."""
        if self.at.evaluated == self.update:
            return
        metrics, passes = evaluate(self.trainer, self.config.eval_passes, self._between_passes)
        self.metrics_log.evaluation(self.update, self._epochs(), metrics)
        if not all(map(math.isfinite, metrics.values())):
            log.info("diverged: validation gives %s", metrics)
            self.at.diverged = True
            return
        self.at.evaluated, self.at.last, self.at.passes = self.update, metrics, passes
        self.saved = None  # a checkpoint of this update that there may be does not have it
        if not self.at.best or metrics["loss"] < self.at.best["loss"]:
            self.at.best = {**metrics, "step": self.update}

    def _between_passes(self) -> None:
        """Of a validation, which is begun anew where the run goes on.

        Raises:
            Interrupted: on all processes, if one was asked to stop; what was reached is saved.
        """
        if any(all_gather_objects(signals.stop_signal() is not None)):
            self._save()
            log.info("interrupted in the validation after step %d, which is saved", self.update)
            raise signals.Interrupted

    def _save(self) -> None:
        """Write a checkpoint unless there is one of this update."""
        if self.saved == self.update:
            return
        started = time.perf_counter()
        on_rank0(self.context.check_ownership)
        state = self.trainer.captured(
            signature=self.context.signature,
            speech=self.speech,
            position=vars(self.at),
            train_iterator=self.started or self.epochs.state_dict(),
            micro_batches=self.micro_batches,
        )
        checkpoint.save_file(self.checkpoints, self.update, state)
        self.saved = self.update
        if self.context.rank == 0:
            log.info("saved update %d in %.1f s", self.update, time.perf_counter() - started)
