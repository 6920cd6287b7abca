"""Sizes of a HyenaDNA network as plain values, importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dyt_hyenadna.tokenizer import VOCABULARY
from matched.checks import check_counts, check_fractions


@dataclass(frozen=True, kw_only=True)
class HyenaNetwork:
    """Sizes and initialization of HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794, Section 3).

    The defaults are those of the released ``tiny-1k`` network (width 128, 2 layers). The order of
    the Hyena recurrence is 2, as in every HyenaDNA network.

    Attributes:
        vocabulary: number of tokens; the tokenizer has 12.
        vocabulary_multiple: the embedding's rows are padded to a multiple of this number; no token
            uses the padded rows.
        width: channels of the blocks.
        layers: number of blocks, each a Hyena operator and an MLP.
        mlp_ratio: width of the MLP's hidden layer, in multiples of ``width``.
        max_length: number of positions that the filters cover (upstream's ``l_max``, which is the
            length of the data plus 2 for special tokens). The filters are functions of
            position / ``max_length``: fine-tuning needs the pretraining's value.
        dropout: after the embedding; there is no other dropout.
        epsilon: of the LayerNorms.
        embedding_std: standard deviation of the initial embedding. 0.02 is the official value; DyT
            may not learn with it, because α₀ · 0.02 is so far below 1 that tanh is linear and
            nothing brings the inputs of a layer to its scale (ICLR 2025 submission, Section 4.2).
        filter_features: input channels of the filter's MLP: time, and cosine and sine of
            (``filter_features`` - 1) / 2 frequencies.
        filter_width: width of the filter's MLP.
        filter_frequency: initial frequency of its sine activations.
        fast_decay: the fastest decaying channel of the filter falls to 1 % in this fraction of
            ``max_length``.
        slow_decay: the same for the slowest channel.
        decay_shift: added to the decay, which then never falls below it. 0.0 in the official
            training code; 0.05 in the official standalone file and in the port to Hugging Face.
            It is not part of the weights, and a checkpoint does not show which one it needs.
    """

    vocabulary: int = 12
    vocabulary_multiple: int = 8
    width: int = 128
    layers: int = 2
    mlp_ratio: int = 4
    max_length: int = 1026
    dropout: float = 0.1
    epsilon: float = 1e-5
    embedding_std: float = 0.02
    filter_features: int = 5
    filter_width: int = 64
    filter_frequency: float = 10.0
    fast_decay: float = 0.3
    slow_decay: float = 1.5
    decay_shift: float = 0.0

    def __post_init__(self) -> None:
        check_counts(self, "vocabulary", "vocabulary_multiple", "width", "layers", "mlp_ratio")
        check_counts(self, "max_length", "filter_features", "filter_width")
        check_fractions(self, "dropout")
        check_vocabulary(self.vocabulary)
        if self.filter_features % 2 == 0 or self.filter_features < 3:
            raise ValueError(
                f"filter_features is {self.filter_features}; expected an odd number of 3 or more: "
                "time, and cosine and sine of each frequency"
            )
        for name in ("epsilon", "embedding_std", "fast_decay", "slow_decay"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")

    @property
    def padded_vocabulary(self) -> int:
        """Rows of the embedding, and the number of logits: the vocabulary, padded."""
        return -(-self.vocabulary // self.vocabulary_multiple) * self.vocabulary_multiple


def check_vocabulary(vocabulary: int) -> None:
    """Refuse a vocabulary without ids of the tokenizer.

    Raises:
        ValueError: naming both sizes.
    """
    if vocabulary < VOCABULARY:
        raise ValueError(
            f"vocabulary is {vocabulary}; expected {VOCABULARY} or more, the tokenizer's ids"
        )


def official_network(config: Mapping[str, Any]) -> HyenaNetwork:
    """Return the sizes in a config of the official code: the ``config.json`` of a released network.

    Both forms are read: that of the official code (``LongSafari/hyenadna-*``; also Lightning's
    ``model`` section), whose filter options are under "layer", and that of the port to Hugging
    Face (``LongSafari/hyenadna-*-hf``). ``decay_shift`` becomes what the code of that form computes
    with: "shift" under "layer", or 0.0; and 0.05 for the port.

    Raises:
        ValueError: if a size is missing, or the network has parts that ``HyenaNetwork`` lacks.
    """
    ported = "layer" not in config
    layer = config if ported else config["layer"]
    fixed = {
        ("order", "hyena_order"): 2,
        ("num_inner_mlps",): 2,
        ("short_filter_order",): 3,
        ("num_heads",): 1,
        ("bidirectional",): False,
    }
    for names, supported in fixed.items():
        for name in names:
            if layer.get(name, supported) != supported:
                raise ValueError(f"{name} is {layer[name]!r}; only {supported!r} is implemented")
    try:
        width, hidden = config["d_model"], config["d_inner"]
        if hidden % width:
            raise ValueError(f"d_inner is {hidden}; expected a multiple of d_model, {width}")
        return HyenaNetwork(
            vocabulary=config["vocab_size"],
            vocabulary_multiple=config.get("pad_vocab_size_multiple", 1),
            width=width,
            layers=config["n_layer"],
            mlp_ratio=hidden // width,
            max_length=layer["max_seq_len" if ported else "l_max"],
            dropout=config.get("embed_dropout", 0.1),
            epsilon=config.get("layer_norm_epsilon", 1e-5),
            filter_features=layer["emb_dim"],
            filter_width=layer["filter_order"],
            filter_frequency=float(layer["activation_freq" if ported else "w"]),
            decay_shift=0.05 if ported else layer.get("shift", 0.0),
        )
    except KeyError as error:
        raise ValueError(
            f"the config has no {error.args[0]!r}; expected the config.json of a HyenaDNA network"
        ) from None
