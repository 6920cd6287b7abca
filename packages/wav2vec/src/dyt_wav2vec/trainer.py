"""fairseq's trainer, with a checkpoint from which a run ends as if it had never been cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dyt_wav2vec import upstream


class Trainer(upstream.Trainer):
    """Steps as fairseq's does.

    Attributes:
        gradient_norm: of the last update's gradients; None before there is one.
    """

    gradient_norm: float | None = None

    def train_step(self, samples: list[dict], raise_oom: bool = False) -> dict | None:
        """An update; micro-batches that are empty fill the places of a process at an epoch's end.

        After one of these fairseq would count nothing of what the process had before it.
        """
        try:
            return super().train_step([s for s in samples if s] or samples[:1], raise_oom)
        except (AssertionError, RuntimeError) as error:
            # Where gradients overflow, fairseq passes the batch over, after asking a GPU for a 0.
            if self.cuda or not isinstance(error.__context__, OverflowError):
                raise
            self.zero_grad()
            return None

    def clip_grad_norm(self, clip_norm: float) -> torch.Tensor:
        norm = super().clip_grad_norm(clip_norm)
        self.gradient_norm = float(norm)
        return norm

    def save_checkpoint(self, filename: str, extra_state: dict) -> None:
        """Nothing: fairseq would leave a crash.pt, in the middle of an update."""

    def captured(self, **extra: Any) -> dict[str, Any]:
        """All that the run has learned, as fairseq's checkpoints have it, and what these lack.

        That is the 32-bit copy of the weights, from which fairseq would go on rounded to 16 bits,
        and where the loss scale stands. Times and meters are left out: two runs that are the same
        have the same checkpoints.

        Args:
            extra: plain values to be kept with it.
        """
        self.consolidate_optimizer()
        state = self.state_dict()
        for name in ("metrics", "previous_training_time"):
            del state["extra_state"][name]
        scaler = getattr(self.optimizer, "scaler", None)
        state["extra_state"] |= {
            "masters": [copy.detach() for copy in self._masters()],
            "scaler": {} if scaler is None else dict(vars(scaler)),
            **extra,
        }
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``captured`` gave.

        Raises:
            RuntimeError: if it is the state of another model.
            ValueError: if it is of another kind of device, in 16 bits.
        """
        history = state["optimizer_history"][-1]
        self.model.load_state_dict(state["model"], strict=True, model_cfg=self.cfg.model)
        self.lr_scheduler.load_state_dict(history["lr_scheduler_state"])
        self.optimizer.load_state_dict(state["last_optimizer_state"])
        extra = state["extra_state"]
        masters = self._masters()
        if len(masters) != len(extra["masters"]):
            raise ValueError(
                "the checkpoint has the 32-bit weights in one piece, or this device wants them so: "
                "a GPU cannot go on from a CPU's checkpoint in 16 bits, nor a CPU from a GPU's"
            )
        for copy, kept in zip(masters, extra["masters"], strict=True):
            copy.data.copy_(kept)
        if (scaler := getattr(self.optimizer, "scaler", None)) is not None:
            vars(scaler).update(extra["scaler"])
        self.set_num_updates(history["num_updates"])
        self.get_model().set_num_updates(history["num_updates"])

    def prepared(self, sample: dict) -> dict:
        """A micro-batch on the device, in the precision of the model."""
        return self._prepare_sample(sample)[0]

    def _masters(self) -> list[nn.Parameter]:
        """The optimiser's own copy of the weights; none where it works on the model's."""
        copies = getattr(self.optimizer, "fp32_params", [])
        return list(copies.values() if isinstance(copies, dict) else copies)


def stop_loading(epochs: upstream.EpochBatchIterator) -> None:
    """End the loading processes of a pass that is over, or not to be gone on with.

    The pass is part of a cycle; when the garbage collector comes by, in the middle of an update,
    torch waits five seconds for each process.

    Args:
        epochs: fairseq's EpochBatchIterator, which began the pass if there was one.
    """
    for batches in (epochs._cur_epoch_itr, epochs._next_epoch_itr):
        if batches is not None:
            batches._itr = None
