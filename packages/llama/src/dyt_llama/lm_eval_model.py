"""lm-eval's model class for this package's networks, registered as "dyt-llama".

lm-eval's own class for transformers would build RMSNorms where the network has DyT. Otherwise this
is that class, so requests are encoded, grouped and scored by lm-eval's code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from dyt_llama import weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@register_model("dyt-llama")
class DyTLlamaLM(HFLM):
    """A network in a folder that ``dyt_llama.weights.save`` wrote.

    Logits of rows without a piece of the tokenizer, with which a vocabulary is padded, take no part
    in the softmax. Processes of a torchrun do not share the requests: the run
    ``dyt_llama.zero_shot:score`` divides them over its processes.

    Attributes:
        cut: requests so far that were longer than the network's positions; lm-eval cuts them from
            the left.

    Args:
        pretrained: the folder.
        device: such as "cuda:0"; by default a GPU if there is one.
        dtype: of the weights in memory, "float32" or "bfloat16".
        batch_size: requests of a forward pass.
        max_length: longest request; by default the network's positions.

    Raises:
        ValueError: if the folder cannot be loaded, or its tokenizer does not put BOS before a text
            as the training did.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | str = 1,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        folder = Path(pretrained)
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; expected {' or '.join(DTYPES)}")
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        tokenizer = weights.load_tokenizer(folder)
        self.cut = 0
        self.vocabulary = 1 + max(tokenizer.get_vocab().values())
        options.pop("max_batch_size", None)  # of lm-eval's automatic batch size
        super().__init__(
            pretrained=weights.load(folder, device=place, dtype=DTYPES[dtype]),
            backend="causal",
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            **options,
        )

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return logits (B, T, V) of the tokenizer's pieces."""
        logits: Tensor = super()._model_call(inps, *args, **kwargs)
        return logits[..., : self.vocabulary]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        """As lm-eval's, without a progress bar."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        for (_, choice), context, ids in requests:
            if len(ids) > self.max_length:
                raise ValueError(
                    f"the choice {choice[:40]!r} has {len(ids)} tokens, and the network "
                    f"{self.max_length} positions; leave its task out"
                )
            # The last token is only predicted.
            self.cut += len(context) + len(ids) > self.max_length + 1
        return super()._loglikelihood_tokens(requests, *args, **kwargs)
