"""Mini scale of Table 5: pre-norm and post-norm wav2vec 2.0 on synthetic speech, or on a folder.

    Command    make iclr-table5 SCALE=mini, with SET=data=speech-folder on a folder of speech
    Time       1 hour on one core for the 6 runs with pre-norm; those with post-norm are CVPR's
               (estimated)

It has not been run yet.
"""

from matched import Run
from recipes.cvpr2025.mini.table05 import WIDTH, on_every_source, pretraining
from recipes.iclr2025.table05 import POST, PRE


def rows(data: str) -> dict[str, Run]:
    return {
        PRE: pretraining(data, depth=4, pre_norm=True),
        POST: pretraining(data, depth=4, pre_norm=False),
    }


SCALE = on_every_source(rows, deep="", note=f"4 blocks of width {WIDTH}, pre-norm and post-norm.")
