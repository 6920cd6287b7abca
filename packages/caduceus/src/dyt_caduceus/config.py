"""Configs of Caduceus's pretraining and fine-tuning, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna.config import BenchmarkFineTuning, GenomePretraining, WeightsImport


@dataclass(frozen=True, kw_only=True)
class Pretraining(GenomePretraining):
    """Masked pretraining of Caduceus (Schiff et al. 2024, arXiv 2403.03234, Section 5.1).

    Attributes:
        mask_probability: probability that a position is predicted; of these, 80 % are masked and
            10 % replaced by a random token.
    """

    network: CaduceusNetwork
    mask_probability: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_probability <= 1:
            raise ValueError(
                f"mask_probability is {self.mask_probability}; expected above 0, at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights(WeightsImport):
    """Released weights of Caduceus.

    Those of the variant "ps" need a network with ``strand_exchange``.
    """

    data: str = "caduceus-weights"
    network: CaduceusNetwork


@dataclass(frozen=True, kw_only=True)
class FineTuning(BenchmarkFineTuning):
    """Fine-tuning of Caduceus (Schiff et al. 2024, Section 5.2.1).

    Attributes:
        conjoin: average the logits of both strands in evaluations (post-hoc conjoining). Only for
            the variant "ph", which is then trained on random strands (``flip``); "ps" sees both
            strands anyway.
    """

    network: CaduceusNetwork
    conjoin: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conjoin and self.network.variant != "ph":
            raise ValueError(
                f'conjoin is True, but the variant is "{self.network.variant}", whose logits are '
                'the mean over both strands already; expected the variant "ph"'
            )
        if self.conjoin and self.flip_evaluation:
            raise ValueError(
                "conjoin and flip_evaluation are True; expected at most one: conjoining uses both "
                "strands of every sequence"
            )
