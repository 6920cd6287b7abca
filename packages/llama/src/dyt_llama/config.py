"""Configs of the language-model tasks as plain values, importable without torch.

A table cell is a chain of runs, ``Tokenization`` → ``Pretraining`` → ``ZeroShot``. ``Tokenization``
has neither ``norm`` nor ``seed``: all arms and seeds share its run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dyt import Norm
from dyt_llama.memory import estimate_memory, estimate_scoring_memory
from dyt_llama.network_config import Network
from dyt_llama.zero_shot_tasks import FIFTEEN, METRICS
from matched import MemoryEstimate, Resources, TrainConfig
from matched.checks import check_choice, check_counts, check_fractions

REQUEST_TOKENS = 2048
"""Assumed length of the longest requests of a scoring, for the estimate of its memory: a plan reads
no documents."""


@dataclass(frozen=True, kw_only=True)
class Tokenization:
    """Tokenization of a text into token files, once for all rows, arms and seeds.

    Every document becomes BOS + text + EOS, as the authors' preparation script has it.

    Attributes:
        data: ("text", "tokenizer"), a folder of text and a tokenizer of the user; or
            ("glosses",), WordNet's glosses in timm, or ("docstrings",), those of pinned packages,
            with a tokenizer trained on them.
        vocabulary: pieces of the tokenizer that is trained; None for the source "tokenizer".
        text_field: field or column of the text in .jsonl and .parquet files.
        bos, eos: the tokenizer's pieces before and after every document.
        held_out: fraction of the documents that are held out for validation, chosen by a hash of
            their text, so that equal documents are on one side.
    """

    data: tuple[str, ...] = ("text", "tokenizer")
    vocabulary: int | None = None
    text_field: str = "text"
    bos: str = "<s>"
    eos: str = "</s>"
    held_out: float = 0.0005

    def __post_init__(self) -> None:
        check_fractions(self, "held_out")
        if self.vocabulary is not None:
            check_counts(self, "vocabulary")
        if (self.vocabulary is None) != ("tokenizer" in self.data):
            raise ValueError(
                f"vocabulary is {self.vocabulary} and data {self.data}; expected either a "
                'vocabulary to train a tokenizer with, or "tokenizer" in data'
            )


@dataclass(frozen=True, kw_only=True)
class Pretraining(TrainConfig):
    """Pretraining of a LLaMA (CVPR 2025, Section 5; ICLR 2025 submission, Section 4.2).

    The run needs a ``Tokenization`` under the name "tokens". A sample has ``length`` tokens and
    the one after them, the last target.

    Attributes:
        norm: norm layer that replaces the network's RMSNorms.
        embedding_scale: multiply the token embedding by a learnable scalar, initially √width, as
            the papers do with DyT only.
        network: sizes of the network.
        data: none; the tokens come from the needed run.
        length: tokens of a sample.
        train_tokens: tokens of the training text that are used, from its beginning, several times
            if the steps take more; None for all.
        decay: "all" decays every parameter (γ, α, the scale and the embedding too), as the
            authors' release; "matrices" decays the weights of two dimensions only.
        checkpointed: fraction of the decoder layers whose activations are recomputed in the
            backward pass, spread evenly.
        compile: compile each decoder layer with torch.compile.
        eval_samples: held-out samples of an evaluation; fewer if there are fewer.
        eval_batch: held-out samples per forward pass of a process.
    """

    norm: Norm = field(default_factory=Norm.own)
    embedding_scale: bool = False
    network: Network
    data: tuple[str, ...] = ()
    length: int = 4096
    train_tokens: int | None = None
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float | None = 1.0
    decay: Literal["all", "matrices"] = "all"
    checkpointed: float = 0.0
    compile: bool = False
    eval_samples: int = 1024
    eval_batch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "length", "eval_samples", "eval_batch")
        if self.train_tokens is not None:
            check_counts(self, "train_tokens")
        check_fractions(self, "checkpointed")
        check_choice(self, "decay", ("all", "matrices"))
        if not isinstance(self.norm, Norm):
            raise ValueError(f"norm is {self.norm!r}; expected a dyt.Norm, such as Norm.dyt()")
        if self.length > self.network.positions:
            raise ValueError(
                f"length is {self.length}, but the network has {self.network.positions} positions; "
                "shorten the samples or set network.positions"
            )

    def memory(self, resources: Resources) -> MemoryEstimate:
        """Return the estimated memory of a process; see ``dyt_llama.memory`` for the formula.

        Raises:
            ValueError: if the batch does not divide over the processes.
        """
        accumulation = self.accumulation(resources.world_size)
        samples = self.batch // resources.world_size // accumulation
        return estimate_memory(
            self.network,
            self.norm,
            resources,
            embedding_scale=self.embedding_scale,
            tokens=samples * self.length,
            precision=self.precision,
            checkpointed=self.checkpointed,
        )


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Zero-shot scores of a trained network by lm-eval.

    The run needs a ``Pretraining`` under the name "pretrained". Each of its processes holds the
    whole network.

    Attributes:
        data: ("zero-shot",), the data of the fifteen tasks; or ("glosses",), for "gloss_word".
        tasks: names of lm-eval.
        batch: requests per forward pass of a process.
        precision: of the weights and of the forward pass.
    """

    data: tuple[str, ...] = ("zero-shot",)
    tasks: tuple[str, ...] = tuple(FIFTEEN)
    batch: int = 16
    precision: Literal["fp32", "bf16"] = "bf16"

    def __post_init__(self) -> None:
        check_counts(self, "batch")
        check_choice(self, "precision", ("fp32", "bf16"))
        unknown = [name for name in self.tasks if name not in METRICS]
        if unknown or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            known = ", ".join(METRICS)
            raise ValueError(f"tasks is {self.tasks}; expected some of {known}, each once")
        source = "zero-shot"
        if any(name in FIFTEEN for name in self.tasks) and source not in self.data:
            raise ValueError(f"data is {self.data}; expected {source!r} in it for {self.tasks}")

    def memory_with_needs(self, resources: Resources, needs: Mapping[str, Any]) -> MemoryEstimate:
        """Return the estimated memory of a process, each of which holds the whole network.

        See ``dyt_llama.memory`` for the formula. Requests are assumed to have ``REQUEST_TOKENS``
        tokens, or as many as the network has positions if those are fewer.

        Raises:
            ValueError: if the run needs no ``Pretraining``.
        """
        trained = needs.get("pretrained")
        if not isinstance(trained, Pretraining):
            raise ValueError(
                'a ZeroShot needs the run whose network it scores: expected needs={"pretrained": '
                "…} with a Pretraining"
            )
        return estimate_scoring_memory(
            trained.network,
            trained.norm,
            embedding_scale=trained.embedding_scale,
            tokens=self.batch * min(REQUEST_TOKENS, trained.network.positions),
            precision=self.precision,
        )
