"""Released weights of DiT as a run: the task ``import_weights``.

An analysis of norm layers needs its run under the name "trained" instead of a training.
"""

from __future__ import annotations

from dyt_dit import release_weights
from dyt_dit.config import ReleasedWeights
from dyt_dit.model import DiffusionTransformer
from matched.task import Context, Outcome
from matched.training.distributed import process_group
from matched.training.released_weights import import_state


def import_weights(context: Context, config: ReleasedWeights) -> Outcome:
    """Read weights of the DiT release.

    Raises:
        ValueError: if there are no such weights, or they are of another network.
    """
    with process_group(context):
        model = DiffusionTransformer(config.network)
        file = context.data[config.data]
        release_weights.load(model, file)
        return import_state(context, model, model.state_dict(), file)
