"""Released weights of a classifier as a run: the task ``import_weights``.

An analysis of norm layers needs its run under the name "trained" instead of a training.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dyt_vision import models, weights
from dyt_vision.config import ReleasedWeights
from dyt_vision.sources import weights_file
from matched.task import Context, Outcome
from matched.training.distributed import process_group
from matched.training.released_weights import import_state


def import_weights(context: Context, config: ReleasedWeights) -> Outcome:
    """Read the weights of a timm model.

    Raises:
        ValueError: if there are no such weights, or they are of another model.
    """
    with process_group(context):
        model = models.constructor(config.model)(
            num_classes=config.classes, **dict(config.model_args)
        )
        file = weights_file(context.data[config.data])
        return import_state(context, model, _read(file), file)


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return weights.read(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read ({error}); copy it again") from error
