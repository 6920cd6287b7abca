"""Analysis of the norm layers of a pretrained wav2vec 2.0: the task of CVPR 2025, Figure 2.

The config is that of the pretraining, which the run needs under the name "trained", in
addition to "speech". The task writes norm_layers.npz (``dyt.norm_analysis.to_arrays``).
"""

from __future__ import annotations

from functools import partial

from dyt.norm_analysis import record_norms, shape_metrics, to_arrays
from dyt_wav2vec import fairseq_compat
from dyt_wav2vec.config import Pretraining
from dyt_wav2vec.evaluation import validation_batches
from dyt_wav2vec.pretraining import PretrainingRun, quiet_fairseq, write_manifest
from matched.task import Context, Outcome
from matched.training import checkpoint, reseed
from matched.training.artifacts import (
    TRAINING_DIVERGED,
    has_diverged,
    save_arrays,
    state_dict_mismatches,
)
from matched.training.distributed import on_rank0, process_group
from matched.training.fingerprint import batch_digest

ARRAYS = "norm_layers.npz"


def analyze(context: Context, config: Pretraining) -> Outcome:
    """Record the norm layers on the first micro-batch of the validation set.

    Raises:
        ValueError: if the pretraining has no checkpoint, or its weights do not fit the network.
    """
    trained = context.needs["trained"]
    if has_diverged(trained):
        return TRAINING_DIVERGED
    with (
        process_group(context) as device,
        fairseq_compat.isolated_state(context.world_size),
        quiet_fairseq(),
    ):
        speech = on_rank0(partial(write_manifest, context, config))
        run = PretrainingRun(context, config, device, speech)
        run.build()
        state = checkpoint.load_newest_file(
            trained / "checkpoints", trained.name, lambda s: s["extra_state"]["signature"]
        )
        if state is None:
            raise ValueError(f"{trained} has no intact checkpoint; run it again")
        if mismatches := state_dict_mismatches(run.model.state_dict(), state["model"]):
            raise ValueError(f"the checkpoint of {trained} does not fit: {'; '.join(mismatches)}")
        model = run.trainer.get_model()
        model.load_state_dict(state["model"])
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
        save_arrays(context, ARRAYS, to_arrays(records))
        context.write_fingerprint(weights="none", batches=[batch_digest(sample)])
        return Outcome(metrics=shape_metrics(records), steps=1)
