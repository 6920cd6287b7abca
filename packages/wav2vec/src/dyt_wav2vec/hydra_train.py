"""fairseq's own command, which Python 3.11 and later cannot start, with our model and task known.

    python -m dyt_wav2vec.hydra_train --config-dir … --config-name … task.data=…

takes what ``fairseq-hydra-train`` takes. To fine-tune a checkpoint of ours, give its path as
``model.w2v_path``. Other commands of fairseq's learn of our model and task by ``PLUGIN``, the
folder for their option ``common.user_dir``.
"""

from __future__ import annotations

from pathlib import Path

import torch

# Here and not below: a process that fairseq spawns for another GPU imports this module first.
import dyt_wav2vec.registration  # noqa: F401
from dyt_wav2vec import upstream

# What fairseq writes when it fine-tunes has one in it, which torch reads for whoever names it.
torch.serialization.add_safe_globals([upstream.Dictionary])
PLUGIN = Path(__file__).with_name("fairseq_plugin")

if __name__ == "__main__":
    from fairseq_cli.hydra_train import cli_main

    cli_main()
