"""Released weights of wav2vec 2.0 in fairseq's form as a run: the task ``import_weights``.

An analysis of norm layers needs its run under the name "trained" instead of a pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dyt import Norm
from dyt_wav2vec import model
from dyt_wav2vec.config import ReleasedWeights
from matched.task import Context, Outcome
from matched.training.artifacts import load_artifact
from matched.training.distributed import process_group
from matched.training.released_weights import import_state


def import_weights(context: Context, config: ReleasedWeights) -> Outcome:
    """Read a checkpoint of fairseq's wav2vec 2.0, pretrained and not fine-tuned.

    Raises:
        ValueError: if it is no such checkpoint, or of another network.
    """
    with process_group(context):
        network, _ = model.build(config.network, Norm.own(), seed=0)
        file = context.data[config.data]
        content = load_artifact(file)
        state = content.get("model") if isinstance(content, Mapping) else None
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise ValueError(
                f"{file} has no weights under 'model'; expected a checkpoint of fairseq, such as "
                "libri960_big.pt"
            )
        return import_state(context, network, state, file)
