"""Caduceus (kuleshov-group/caduceus), written for transformers 4: HyenaDNA's shims, tied weights.

transformers 5 passes other arguments to `tie_weights`, and leaves the output layer of the PH
variant untied without a warning.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

import dyt_upstream.shims.hyenadna  # noqa: F401

_base: Any = PreTrainedModel
_hook: Any = vars(PreTrainedModel).get("__init_subclass__")  # of newer transformers


def init_subclass(cls: Any, /, **options: Any) -> None:
    """Replace `tie_weights` of Caduceus's networks when their class is created."""
    if _hook is not None:
        _hook.__func__(cls, **options)
    if cls.__module__.startswith("caduceus.") and "tie_weights" in vars(cls):
        tie = cls.tie_weights

        def tie_weights(self: Any, **_: Any) -> None:
            tie(self)
            if isinstance(head := self.get_output_embeddings(), nn.Linear):
                head.weight = self.get_input_embeddings().weight

        cls.tie_weights = tie_weights


_base.__init_subclass__ = classmethod(init_subclass)
