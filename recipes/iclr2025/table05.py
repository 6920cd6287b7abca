"""ICLR 2025 submission, Table 5: wav2vec 2.0 Base on LibriSpeech, with pre-norm and post-norm.

    Hardware   64 GPUs, as CVPR's Table 5
    Time       18 hours requested: about a third of CVPR's 1.6 days
    Command    make iclr-table5 SCALE=paper CLUSTER=slurm   DRY=1 prints the plan only
    Smoke      make iclr-table5                             smoke/table05.py

As CVPR's Table 5, sharing its file lists, for 200 epochs, with the learning rate of 1e-3 that
Appendix A.3 prints (fairseq's own setting is 5e-4) and α0 = 1 (Section 2.2). The schedule is
fairseq's for 400,000 updates; an epoch has 600 to 700, so the runs end after about a third of it.
docs/SETTINGS-WAV2VEC.md gives the source of each value.
"""

from dataclasses import replace

from dyt_wav2vec.config import BASE
from matched import Run, Scale, Table
from recipes.cvpr2025.table05 import BASE_RUN, GPUS, LISTING, METRICS, pretrained
from recipes.iclr2025.arms import LN_VS_DYT


def base(*, pre_norm: bool) -> Run:
    """Base for 200 epochs, with pre-norm or post-norm blocks."""
    network = replace(BASE, layer_norm_first=pre_norm)
    return pretrained(replace(BASE_RUN, network=network, epochs=200, lr=1e-3))


PRE, POST = "wav2vec2_base_prenorm", "wav2vec2_base_postnorm"

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={PRE: base(pre_norm=True), POST: base(pre_norm=False)},
    resources=replace(GPUS, minutes=18 * 60),
    resource_overrides={f"{PRE}/speech": LISTING, f"{POST}/speech": LISTING},
    metrics=METRICS,
)

TABLE = Table(arms=LN_VS_DYT, scales=(PAPER,))
