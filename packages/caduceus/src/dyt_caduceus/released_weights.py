"""Released weights of Caduceus: the task ``dyt_caduceus.released_weights:import_weights``."""

from __future__ import annotations

from dyt_caduceus.config import ReleasedWeights
from dyt_caduceus.networks import CADUCEUS
from dyt_hyenadna.released_weights import import_network_weights
from matched.task import Context, Outcome


def import_weights(context: Context, config: ReleasedWeights) -> Outcome:
    """Read weights of Caduceus.

    Raises:
        ValueError: as ``dyt_hyenadna.released_weights.import_network_weights``.
    """
    return import_network_weights(context, config, CADUCEUS)
