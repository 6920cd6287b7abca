"""Fine-tuning of Caduceus on GenomicBenchmarks: the task ``dyt_caduceus.finetuning:train``."""

from __future__ import annotations

from dyt_caduceus.config import FineTuning
from dyt_caduceus.networks import CADUCEUS
from dyt_hyenadna.finetuning import fine_tune
from matched.task import Context, Outcome


def train(context: Context, config: FineTuning) -> Outcome:
    """Fine-tune Caduceus; metrics as ``dyt_hyenadna.finetuning.fine_tune``.

    Raises:
        ValueError: as ``dyt_hyenadna.finetuning.fine_tune``.
    """
    return fine_tune(context, config, CADUCEUS)
