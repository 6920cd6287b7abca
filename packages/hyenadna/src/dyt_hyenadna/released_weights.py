"""Released weights as the start of fine-tuning: the run that reads them, and HyenaDNA's task.

The task ``dyt_hyenadna.released_weights:import_weights``. Fine-tuning needs its run instead of a
pretraining; it writes the same file.
"""

from __future__ import annotations

from dyt_hyenadna.config import ReleasedWeights, WeightsImport
from dyt_hyenadna.networks import HYENADNA, Networks
from dyt_hyenadna.pretraining import PRETRAINED_FILE
from matched.task import Context, Outcome
from matched.training.artifacts import save_artifact
from matched.training.distributed import process_group
from matched.training.fingerprint import batch_digest


def import_weights(context: Context, config: ReleasedWeights) -> Outcome:
    """Read weights of HyenaDNA.

    Raises:
        ValueError: as ``import_network_weights``.
    """
    return import_network_weights(context, config, HYENADNA)


def import_network_weights(context: Context, config: WeightsImport, networks: Networks) -> Outcome:
    """Check released weights against the network, and write them for fine-tuning.

    The outcome has a hash of the weights, because the run's signature does not depend on the file.

    Raises:
        ValueError: if there are no such weights, or they are of another network.
    """
    with process_group(context):
        model = networks.language_model(config)
        networks.load(model, context.data[config.data])
        state = model.state_dict()
        save_artifact(context, PRETRAINED_FILE, {"model": state})
    return Outcome(metrics={}, steps=0, details={"weights": batch_digest(list(state.values()))})
