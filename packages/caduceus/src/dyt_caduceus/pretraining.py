"""Masked pretraining of Caduceus on a genome: the task ``dyt_caduceus.pretraining:pretrain``."""

from __future__ import annotations

from functools import partial

from dyt_caduceus.config import Pretraining
from dyt_caduceus.networks import CADUCEUS
from dyt_hyenadna.objectives import masked_tokens
from dyt_hyenadna.pretraining import pretrain_network
from matched.task import Context, Outcome


def pretrain(context: Context, config: Pretraining) -> Outcome:
    """Pretrain Caduceus on masked bases; the metric is ``loss``, of held-out windows.

    Raises:
        ValueError: as ``dyt_hyenadna.pretraining.pretrain_network``.
    """
    objective = partial(masked_tokens, probability=config.mask_probability)
    return pretrain_network(context, config, CADUCEUS, objective)
