"""fairseq's trainer with checkpoints from which a run resumes bit-identically."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dyt_wav2vec import fairseq_api


class Trainer(fairseq_api.Trainer):
    """fairseq's trainer with complete checkpoints and overflow handling on CPUs.

    Attributes:
        gradient_norm: gradient norm of the last update; None before the first one.
    """

    gradient_norm: float | None = None

    def train_step(
        self, samples: list[dict[str, Any]], raise_oom: bool = False
    ) -> dict[str, Any] | None:
        """Do one update; return its logging output, or None if the gradients overflowed.

        At the end of an epoch, empty micro-batches pad the list of a process. They are dropped,
        because fairseq does not count a process's earlier micro-batches if the last one is empty.
        """
        try:
            return super().train_step([s for s in samples if s] or samples[:1], raise_oom)
        except (AssertionError, RuntimeError) as error:
            # When gradients overflow, fairseq skips the batch, but first allocates a 0 on a GPU.
            if self.cuda or not isinstance(error.__context__, OverflowError):
                raise
            self.zero_grad()
            return None

    def clip_grad_norm(self, clip_norm: float) -> torch.Tensor:
        norm = super().clip_grad_norm(clip_norm)
        self.gradient_norm = float(norm)
        return norm

    def peak_memory_mib(self) -> float:
        """Return the last update's peak of allocated GPU memory in MiB; 0 on a CPU.

        fairseq resets torch's peak in every update and keeps the rest of the GPU's memory.
        """
        if not self.cuda:
            return 0.0
        free_gib = float(fairseq_api.metrics.get_meter("train", "gb_free").val)
        return 1024 * (self.cuda_env.total_memory_in_GB - free_gib)

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> None:
        """Do nothing: fairseq would write a crash.pt in the middle of an update."""

    def full_state(self, **extra: Any) -> dict[str, Any]:
        """Return the training state in the form of fairseq's checkpoints, extended.

        The 32-bit copy of the weights, which fairseq would restore from the weights rounded to 16
        bits, and the state of the loss scaler are added. Times and meters are removed, so that two
        identical runs have identical checkpoints.

        Args:
            extra: plain values to store in its "extra_state".
        """
        self.consolidate_optimizer()
        state = self.state_dict()
        for name in ("metrics", "previous_training_time"):
            del state["extra_state"][name]
        scaler = getattr(self.optimizer, "scaler", None)
        state["extra_state"] |= {
            "masters": [master.detach() for master in self._master_weights()],
            "scaler": {} if scaler is None else dict(vars(scaler)),
            **extra,
        }
        return state

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Resume from a state that ``full_state`` returned.

        Raises:
            RuntimeError: if it is the state of another model.
            ValueError: if its 16-bit training ran on another kind of device.
        """
        history = state["optimizer_history"][-1]
        self.model.load_state_dict(state["model"], strict=True, model_cfg=self.cfg.model)
        self.lr_scheduler.load_state_dict(history["lr_scheduler_state"])
        self.optimizer.load_state_dict(state["last_optimizer_state"])
        extra = state["extra_state"]
        masters = self._master_weights()
        if len(masters) != len(extra["masters"]):
            raise ValueError(
                "the 32-bit weights do not fit this device: GPUs store one flat tensor, "
                "CPUs one per parameter; resume an fp16 run on the kind of device that started it"
            )
        for master, saved in zip(masters, extra["masters"], strict=True):
            master.data.copy_(saved)
        if (scaler := getattr(self.optimizer, "scaler", None)) is not None:
            vars(scaler).update(extra["scaler"])
        self.set_num_updates(history["num_updates"])
        self.get_model().set_num_updates(history["num_updates"])

    def prepare_sample(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Move a micro-batch to the device and cast it to the precision of the model."""
        return self._prepare_sample(sample)[0]

    def _master_weights(self) -> list[nn.Parameter]:
        """Return the optimizer's 32-bit copy of the weights; empty if it updates the model's."""
        masters = getattr(self.optimizer, "fp32_params", [])
        return list(masters.values() if isinstance(masters, dict) else masters)


def stop_loading(epochs: fairseq_api.EpochBatchIterator) -> None:
    """Stop the loading processes of a pass that has ended or is abandoned.

    The pass is part of a reference cycle. If the garbage collector freed it, in the middle of an
    update, torch would wait five seconds for each process.

    Args:
        epochs: fairseq's EpochBatchIterator, which may have started a pass.
    """
    for batches in (epochs._cur_epoch_itr, epochs._next_epoch_itr):
        if batches is not None:
            batches._itr = None
