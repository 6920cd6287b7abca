"""Analysis of the norm layers of a pretrained wav2vec 2.0: the task of CVPR 2025, Figure 2.

The config is that of the pretraining, which the run needs under the name "trained", in
addition to "speech". The task writes norm_layers.npz (``dyt.norm_analysis.to_arrays``) and a
picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dyt.norm_analysis import record_norms, shape_metrics, to_arrays
from dyt_wav2vec import fairseq_compat
from dyt_wav2vec.config import Pretraining
from dyt_wav2vec.evaluation import validation_batches
from dyt_wav2vec.pretraining import PretrainingRun, quiet_fairseq, write_manifest
from matched.task import Context, Outcome
from matched.training import checkpoint, released_weights, reseed
from matched.training.artifacts import mismatch_summary, state_dict_mismatches
from matched.training.distributed import on_rank0
from matched.training.norm_layer_files import Analysis, analyze_trained


def analyze(context: Context, config: Pretraining) -> Outcome:
    """Record the norm layers on the first micro-batch of the validation set.

    Raises:
        ValueError: if the pretraining has no checkpoint, or its weights do not fit the network.
    """
    return analyze_trained(context, partial(_analysis, context, config))


def _analysis(
    context: Context, config: Pretraining, trained: Path, device: torch.device
) -> Analysis:
    with fairseq_compat.isolated_state(context.world_size), quiet_fairseq():
        speech = on_rank0(partial(write_manifest, context, config))
        run = PretrainingRun(context, config, device, speech)
        run.build()
        weights = _trained_weights(trained)
        if mismatches := state_dict_mismatches(run.model.state_dict(), weights):
            raise ValueError(
                f"the checkpoint of {trained} does not fit: {mismatch_summary(mismatches)}"
            )
        model = run.trainer.get_model()
        model.load_state_dict(weights)
        model.eval()
        sample = next(validation_batches(run.trainer, 0))
        sample = run.trainer.prepare_sample(sample)
        reseed("evaluation", 0, *sample["id"].tolist())
        records = record_norms(
            model,
            lambda: run.trainer.criterion(model, sample),
            paths=run.model.norms,
            seed=config.seed,
        )
        return Analysis(batch=sample, arrays=to_arrays(records), metrics=shape_metrics(records))


def _trained_weights(directory: Path) -> Mapping[str, Tensor]:
    """Return the weights that a run has imported, or those of its last checkpoint."""
    weights = released_weights.read(directory)
    if weights is not None:
        return weights
    state = checkpoint.load_newest_file(
        directory / "checkpoints", directory.name, lambda s: s["extra_state"]["signature"]
    )
    if state is None:
        raise ValueError(f"{directory} has no intact checkpoint; run it again")
    of_model: Mapping[str, Tensor] = state["model"]
    return of_model
