"""Released weights as a run: checked against a network, and written for the runs that need it.

Such a run takes the place of a training under the name "trained": ``checkpoint.load_weights`` reads
its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from matched.task import Context, Outcome
from matched.training.artifacts import (
    load_artifact,
    mismatch_summary,
    save_artifact,
    state_dict_mismatches,
)
from matched.training.fingerprint import batch_digest

FILE = "weights.pth"


def import_state(
    context: Context, model: nn.Module, state: Mapping[str, Tensor], source: Path
) -> Outcome:
    """Write a state dict that fits a network; the outcome has a hash of it.

    The hash is kept because the run's signature does not depend on the file.

    Raises:
        ValueError: if a key or shape differs. Nothing is written then.
    """
    if mismatches := state_dict_mismatches(model.state_dict(), state):
        raise ValueError(
            f"{source} is of another architecture than {type(model).__name__}: "
            f"{mismatch_summary(mismatches)}; name the weights of this network in site.toml"
        )
    # In the network's order: that of the file depends on its format.
    ordered = {name: state[name] for name in model.state_dict()}
    save_artifact(context, FILE, {"model": ordered})
    return Outcome(metrics={}, steps=0, details={"weights": batch_digest(list(ordered.values()))})


def read(directory: Path) -> Mapping[str, Tensor] | None:
    """Return the weights that a run has imported; None if it is not such a run.

    Raises:
        ValueError: if the file is damaged.
    """
    if not (directory / FILE).is_file():
        return None
    state: Mapping[str, Tensor] = load_artifact(directory / FILE)["model"]
    return state
