"""Configuration of a Caduceus network, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from dyt_hyenadna.network_config import check_vocabulary
from matched.checks import check_choice, check_counts

VARIANTS = ("ph", "ps")


@dataclass(frozen=True, kw_only=True)
class CaduceusNetwork:
    """Size and variant of a Caduceus network (Schiff et al. 2024, arXiv 2403.03234).

    The defaults other than width and layers are those of the official release.

    Attributes:
        width: channels of the residual stream; of one strand in the PS variant.
        layers: number of blocks, each with one bidirectional Mamba.
        variant: "ph" (post-hoc: the network sees one strand, and the two strands' predictions are
            averaged afterwards) or "ps" (parameter sharing: both strands go through every layer,
            and the outputs are equivariant to the reverse complement).
        d_state: states for each inner channel.
        d_conv: kernel size of the short causal convolution.
        expand: inner channels for each channel of the residual stream.
        vocabulary: number of tokens; the tokenizer has 12.
        padded_vocabulary: rows of the embedding: the vocabulary, rounded up to a multiple of 8.
        embedding_std: standard deviation of the embedding's initial weights.
        epsilon: of the RMSNorms.
        strand_exchange: exchange the two strands in front of every block, as in the fused path of
            the official release, which computes another function than the plain one. For PS
            checkpoints that were trained there; False for training from scratch.
    """

    width: int
    layers: int
    variant: str = "ps"
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    vocabulary: int = 12
    padded_vocabulary: int = 16
    embedding_std: float = 0.02
    epsilon: float = 1e-5
    strand_exchange: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "width", "layers", "d_state", "d_conv", "expand")
        check_counts(self, "vocabulary", "padded_vocabulary")
        check_choice(self, "variant", VARIANTS)
        check_vocabulary(self.vocabulary)
        if self.padded_vocabulary < self.vocabulary:
            raise ValueError(
                f"padded_vocabulary is {self.padded_vocabulary}; expected the vocabulary "
                f"({self.vocabulary}) or more"
            )
        for name in ("embedding_std", "epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")
        if self.strand_exchange and self.variant != "ps":
            raise ValueError(
                "strand_exchange is True, but only the variant 'ps' has two strands; "
                "set strand_exchange to False, or variant to 'ps'"
            )

    @property
    def inner(self) -> int:
        """Channels inside a Mamba."""
        return self.expand * self.width

    @property
    def dt_rank(self) -> int:
        """Rank of the projection that gives the step sizes, ⌈width / 16⌉."""
        return -(-self.width // 16)
