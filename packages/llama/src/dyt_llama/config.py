"""Configs of the language-model tasks as plain values, importable without torch.

A table cell is a chain of runs, ``Tokenization`` → ``Pretraining``. ``Tokenization`` has neither
``norm`` nor ``seed``: all arms and seeds share its run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from dyt import Norm
from matched import TrainConfig
from matched.checks import check_choice, check_counts, check_divides, check_fractions


@dataclass(frozen=True, kw_only=True)
class Network:
    """Sizes of a LLaMA (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288).

    Attributes:
        width: channels of the residual stream.
        depth: number of decoder layers.
        heads: attention heads of the queries.
        kv_heads: attention heads of keys and values; fewer than ``heads`` is grouped-query
            attention.
        ffn: channels of the gated feed-forward layers.
        vocabulary: rows of the embedding and of the output layer, which are not tied.
        positions: length of the longest sequence.
        rope_theta: base of the rotary position embedding.
        norm_eps: ε of RMSNorm.
    """

    width: int
    depth: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int = 32_000
    positions: int = 4096
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_counts(self, "width", "depth", "heads", "kv_heads", "ffn", "vocabulary", "positions")
        check_divides("heads", self.heads, "width", self.width)
        check_divides("kv_heads", self.kv_heads, "heads", self.heads)
        if self.width // self.heads % 2:
            raise ValueError(
                f"each of {self.heads} heads has {self.width // self.heads} channels; "
                "rotary positions need an even number"
            )


LLAMA_7B = Network(width=4096, depth=32, heads=32, kv_heads=32, ffn=11_008)
LLAMA_13B = Network(width=5120, depth=40, heads=40, kv_heads=40, ffn=13_824)
LLAMA_34B = Network(width=8192, depth=48, heads=64, kv_heads=8, ffn=22_016)
LLAMA_70B = Network(width=8192, depth=80, heads=64, kv_heads=8, ffn=28_672)
LLAMA_1B4 = Network(width=2048, depth=24, heads=16, kv_heads=4, ffn=6144)
"""fms-fsdp's llama2_1.4b since September 2024, the model of ICLR's 1.4B."""


def llama_of(width: int, depth: int, **changes: int) -> Network:
    """Return a LLaMA of any width and depth, for the searches of α0 by size.

    CVPR 2025, Table 12, and ICLR 2025 submission, Tables 7 and 10 and Fig. 5, print width and depth
    only. Heads of 128 channels without grouping, and LLaMA's rule for the feed-forward width, the
    next multiple of 256 of 8/3 · width, give the 7B and 13B models at their widths and depths.

    Args:
        changes: other fields of the network.
    """
    ffn = -(-8 * width // 3 // 256) * 256
    heads = max(1, width // 128)
    sizes = {"heads": heads, "kv_heads": heads, "ffn": ffn} | changes
    return Network(width=width, depth=depth, **sizes)


@dataclass(frozen=True, kw_only=True)
class Tokenization:
    """Tokenization of a text into token files, once for all rows, arms and seeds.

    Every document becomes BOS + text + EOS, as the authors' preparation script has it.

    Attributes:
        data: ("text", "tokenizer"), a folder of text and a tokenizer of the user; or
            ("glosses",), WordNet's glosses in timm, with a tokenizer trained on them.
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
        check_fractions(self, "checkpointed")
        check_choice(self, "decay", ("all", "matrices"))
        if not isinstance(self.norm, Norm):
            raise ValueError(f"norm is {self.norm!r}; expected a dyt.Norm, such as Norm.dyt()")
        if self.length > self.network.positions:
            raise ValueError(
                f"length is {self.length}, but the network has {self.network.positions} positions; "
                "shorten the samples or set network.positions"
            )


def with_vocabulary(network: Network, vocabulary: int) -> Network:
    """Return the network for another tokenizer."""
    return replace(network, vocabulary=vocabulary)
