"""Configs of pretraining on a genome, fine-tuning on GenomicBenchmarks and scoring, without torch.

A cell of a table is a chain of runs: a preparation checks the genome, a network is pretrained on
it, fine-tuned on a task of GenomicBenchmarks, and scored. ``GenomePretraining`` and
``BenchmarkFineTuning`` are the settings that HyenaDNA and Caduceus share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dyt import Norm
from dyt_hyenadna.genomic_benchmarks import TASKS
from dyt_hyenadna.network_config import HyenaNetwork
from matched import TrainConfig
from matched.checks import check_choice, check_counts, check_fractions

SPLIT_SEEDS = (1, 2, 3, 4, 5)
"""Seeds of the five random splits of a task's training set (Caduceus, Section 5.2.1)."""
Cut = Literal["tiles", "random", "first", "stretched"]


@dataclass(frozen=True, kw_only=True)
class GenomePretraining(TrainConfig):
    """Pretraining on windows of a genome.

    The run needs a ``Preparation`` under the name "genome".

    Attributes:
        norm: norm layer that replaces the network's own.
        data: source of the genome, as in its preparation.
        length: bases in a window.
        cut: training windows of an interval: "tiles" are adjacent and inside it, "random" are as
            many at random positions, "first" is its first ``length`` bases (HyenaDNA), and
            "stretched" tiles 2^20 bases from its start, past its end and into other intervals
            (Caduceus). Validation windows are tiles, or cut like those of training if no interval
            for validation has ``length`` bases.
        flip: probability that a training window is replaced by its reverse complement.
        flip_evaluation: also flip windows of the evaluation, always the same ones, as upstream.
        predict_n: predict N like a base. If False it is [PAD] in input and target, and ignored.
        upper_case: read lower case, which marks repeats, as upper case. False reads it as [UNK],
            as HyenaDNA's tokenizer does.
        length_stages: warm-up of the sequence length: (steps, length) of each stage before the
            full length. Windows are divided into sequences of the stage's length, so a step sees
            the same number of bases in every stage.
        eval_samples: windows in an evaluation, spread evenly over the validation intervals.
        eval_batch: windows per forward pass in an evaluation.
        official_decay: decay the parameters that upstream decays, γ and α of DyT among them,
            instead of all with two or more dimensions.
    """

    norm: Norm = field(default_factory=Norm.own)
    data: str
    length: int = 1024
    cut: Cut = "tiles"
    flip: float = 0.0
    flip_evaluation: bool = False
    predict_n: bool = False
    upper_case: bool = True
    length_stages: tuple[tuple[int, int], ...] = ()
    eval_samples: int = 4096
    eval_batch: int = 128
    official_decay: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self)
        check_counts(self, "length", "eval_samples", "eval_batch")
        check_fractions(self, "flip")
        check_choice(self, "cut", ("tiles", "random", "first", "stretched"))
        for stage in self.length_stages:
            pair = stage if isinstance(stage, tuple) and len(stage) == 2 else (0, 0)
            if min(pair) < 1 or self.length % pair[1]:
                raise ValueError(
                    f"length_stages is {self.length_stages}; expected (steps, length) pairs with "
                    f"lengths that divide length ({self.length})"
                )


@dataclass(frozen=True, kw_only=True)
class Pretraining(GenomePretraining):
    """Next-token pretraining of HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794, Section 3)."""

    network: HyenaNetwork = field(default_factory=HyenaNetwork)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_filter_length("length", self.length, self.network)


@dataclass(frozen=True, kw_only=True)
class WeightsImport:
    """Released weights as the start of fine-tuning, instead of a pretraining.

    Attributes:
        norm: the network's own. The weights were trained with it, and give another function
            with another layer.
        data: source of the weights.
    """

    seed: ClassVar[int] = 0
    """Seed of the initial weights, all of which are replaced."""

    norm: Norm = field(default_factory=Norm.own)
    data: str

    def __post_init__(self) -> None:
        check_norm(self)
        if self.norm != Norm.own():
            raise ValueError(
                f"norm is {self.norm}, but released weights were trained with the network's own "
                "norms; expected Norm.own(): pretrain the other arms"
            )


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights(WeightsImport):
    """Released weights of HyenaDNA."""

    data: str = "hyenadna-weights"
    network: HyenaNetwork = field(default_factory=HyenaNetwork)


@dataclass(frozen=True, kw_only=True)
class BenchmarkFineTuning(TrainConfig):
    """Fine-tuning of all weights on a task of GenomicBenchmarks, with a new linear head.

    The run needs a ``Preparation`` of the tasks under the name "benchmarks". It uses the weights of
    the run that it needs under the name "pretrained", a pretraining or an import of released
    weights; without one, the same network is trained from scratch.

    Attributes:
        norm: norm layer that replaces the network's own.
        data: source of the tasks, as in their preparation.
        task: name of the task.
        split: seed of the random split of the training set into 90 % for training and 10 % for
            validation; the test accuracy of the epoch with the best validation accuracy counts
            (Caduceus). None trains on the whole training set and takes the epoch with the best
            test accuracy (HyenaDNA).
        train_samples: train on this many sequences, the first of the seeded order; None uses all.
        max_length: bases to which sequences are padded, on the left, or cut; None uses that of the
            task in GenomicBenchmarks.
        flip: probability that a training sequence is replaced by its reverse complement.
        flip_evaluation: also flip sequences of validation and test, always the same ones, as
            upstream does when it augments.
        cut_before_flip: cut longer sequences to ``max_length`` before they are flipped. False is
            upstream's order, in which the other strand begins at the other end of the sequence.
        upper_case: as in ``GenomePretraining``.
        masked_pooling: average the features over the bases alone, not over [PAD] too as upstream.
        eval_batch: sequences per forward pass in an evaluation.
        official_decay: as in ``GenomePretraining``.
    """

    norm: Norm = field(default_factory=Norm.own)
    data: str
    task: str
    split: int | None = None
    train_samples: int | None = None
    max_length: int | None = None
    flip: float = 0.0
    flip_evaluation: bool = False
    cut_before_flip: bool = True
    upper_case: bool = True
    masked_pooling: bool = False
    eval_batch: int = 256
    official_decay: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self)
        check_counts(self, "eval_batch")
        check_fractions(self, "flip")
        for name in ("split", "train_samples", "max_length"):
            if getattr(self, name) is not None:
                check_counts(self, name)


@dataclass(frozen=True, kw_only=True)
class FineTuning(BenchmarkFineTuning):
    """Fine-tuning of HyenaDNA (Nguyen et al. 2023, Section 4.2)."""

    network: HyenaNetwork = field(default_factory=HyenaNetwork)

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.max_length or (TASKS[self.task].max_length if self.task in TASKS else 0)
        check_filter_length("max_length", length, self.network)


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """Accuracy of one task: mean and spread over the fine-tuning runs that it needs."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Choice of a task's setting: the ``TaskScore`` that it needs with the best validation."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore:
    """Mean accuracy over the tasks whose scores or selections it needs, by the task's name."""


def check_norm(config: GenomePretraining | WeightsImport | BenchmarkFineTuning) -> None:
    """Refuse a norm that is not a ``dyt.Norm``.

    Raises:
        ValueError: naming the value.
    """
    if not isinstance(config.norm, Norm):
        raise ValueError(f"norm is {config.norm!r}; expected a dyt.Norm, such as Norm.dyt()")


def check_filter_length(name: str, length: int, network: HyenaNetwork) -> None:
    """Refuse sequences that are longer than the network's filters.

    Raises:
        ValueError: naming both lengths.
    """
    if length > network.max_length:
        raise ValueError(
            f"{name} is {length}, and the filters cover {network.max_length} positions "
            "(network.max_length); shorten the sequences or use a network with longer filters"
        )
