"""RMSNorm and DyT by the amount of text: LLaMAs on 0.1 to 7 million tokens, repeated or not.

    Command    make table FILE=recipes/data_size.py SCALE=mini
    Time       6 hours on one core: 13 minutes for a run of 7 million tokens (estimated)

"When Does Removing LayerNorm Help?" (arXiv 2604.23434) reports that DyT lowers the validation loss
where data is scarce and raises it where it is not: -27.3 % for GPT-2 with 64 million parameters on
1 million tokens, +18.8 % on 118 million. All its runs have the same steps, so that a smaller text
is repeated more often. Here the rows with repetitions see 7 million tokens, as the one with the
whole text. This network of width 128 has 0.95 million parameters: 7.4 tokens each with the whole
text, 1 with 1 million tokens and 0.1 with 100,000; the study has 1.8 and 0.02.

The validation loss is that after the last step, as the study's; the best of eight evaluations tells
whether a difference is one of overfitting only. α0 is 1, the best of 0.5, 1 and 2 for this width on
1 million tokens and a seed that no table has. The study starts at 2, without a scale on the
embedding. It has not been run.
"""

from dataclasses import dataclass, replace

from dyt import Norm
from matched import Metric, Run, Scale, Table
from recipes.cvpr2025.table04 import METRICS, RMSNORM_VS_DYT, arms
from recipes.mini_text import (
    RESOURCES,
    SEEDS,
    TEXT,
    TEXT_NOTE,
    TOKENIZING,
    pretraining,
    resources,
)

WIDTH, DEPTH = 128, 2
SEEN = 7_000_000


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Tokens of a row.

    Attributes:
        distinct: tokens of the text that are used.
        seen: tokens of all steps.
    """

    distinct: int
    seen: int

    @property
    def label(self) -> str:
        times = self.seen / self.distinct
        text = f"{self.distinct / 1e6:g} M tokens"
        return f"{text}, once" if times == 1 else f"{text}, {times:g} times"


ROWS = {
    "tokens_100k_repeated": Amount(distinct=100_000, seen=SEEN),
    "tokens_1m_repeated": Amount(distinct=1_000_000, seen=SEEN),
    "tokens_2m_repeated": Amount(distinct=2_000_000, seen=SEEN),
    "tokens_1m": Amount(distinct=1_000_000, seen=1_000_000),
    "tokens_2m": Amount(distinct=2_000_000, seen=2_000_000),
    "tokens_7m": Amount(distinct=SEEN, seen=SEEN),
}


def runs(amount: Amount) -> dict[str, Run]:
    """The runs of a row: arm → run."""
    config = pretraining(WIDTH, DEPTH, tokens=amount.seen)
    if amount.distinct < amount.seen:
        config = replace(config, train_tokens=amount.distinct)
    return arms(config, Norm.dyt(alpha0=1.0), TEXT)


MINI = Scale(
    name="mini",
    seeds=SEEDS,
    runs={row: runs(amount) for row, amount in ROWS.items()},
    resources=RESOURCES,
    resource_overrides={
        **{row: resources(WIDTH, DEPTH, tokens=amount.seen) for row, amount in ROWS.items()},
        **{f"{row}/tokens": TOKENIZING for row in ROWS},
    },
    note=f"A network of width {WIDTH} with {DEPTH} layers. {TEXT_NOTE}",
    metrics=(
        *(metric for metric in METRICS if metric.key == "validation_loss"),
        Metric(key="best_validation_loss", label="best validation loss", direction="lower"),
        *(metric for metric in METRICS if metric.key == "loss"),
    ),
)

TABLE = Table(
    arms=RMSNORM_VS_DYT,
    scales=(MINI,),
    title="RMSNorm and DyT by the amount of text",
    labels={row: amount.label for row, amount in ROWS.items()},
)
