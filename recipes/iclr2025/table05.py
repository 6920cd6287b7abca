"""ICLR 2025 submission, Table 5: wav2vec 2.0 Base on LibriSpeech, with pre-norm and post-norm.

As CVPR's Table 5, whose list of files is taken, after 200 epochs, with the learning rate of 1e-3
that its Appendix A.3 prints (fairseq's own settings have 5e-4) and α0 = 1 (Section 2.2). The
schedule is fairseq's, which ends at 400,000 updates: an epoch has 600 to 700, so the runs end after
about a third of it. docs/SETTINGS-WAV2VEC.md has every setting.

    make iclr-table5                                   # smoke scale, on this machine, minutes
    make iclr-table5 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make iclr-table5 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from dyt_wav2vec.config import BASE
from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table05
from recipes.cvpr2025.table05 import BASE_RUN, GPUS, LOOKING, METRICS, pretrained, tiny


def base(*, first: bool) -> Run:
    """Base for 200 epochs; ``first``: with pre-norm blocks."""
    network = replace(BASE, layer_norm_first=first)
    return pretrained(replace(BASE_RUN, network=network, epochs=200, lr=1e-3))


PRE, POST = "wav2vec2_base_prenorm", "wav2vec2_base_postnorm"

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={PRE: base(first=True), POST: base(first=False)},
    resources=replace(GPUS, minutes=18 * 60),
    resource_overrides={f"{PRE}/speech": LOOKING, f"{POST}/speech": LOOKING},
    metrics=METRICS,
)

SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs={PRE: tiny(first=True), POST: tiny(first=False)},
    resources=table05.SMOKE.resources,
    note=table05.SMOKE.note.replace(
        "Post-norm (Base, 2 blocks of width 64) and pre-norm (Large, 3 blocks) learn",
        "2 blocks of width 64, pre-norm and post-norm, learn",
    ),
    metrics=METRICS,
)

TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(alpha0=1.0))),
    scales=(SMOKE, PAPER),
)
