"""fairseq's command ``fairseq-hydra-train`` for Python 3.11 and later, with our plugins registered.

    python -m dyt_wav2vec.hydra_train --config-dir … --config-name … task.data=…

takes the arguments of ``fairseq-hydra-train``. To fine-tune a checkpoint of ours, pass its path as
``model.w2v_path``. To use our plugins in other fairseq commands, pass ``USER_DIR`` as the option
``common.user_dir``.
"""

from __future__ import annotations

from pathlib import Path

import torch

# At the top: a process that fairseq spawns for another GPU imports this module first.
import dyt_wav2vec.fairseq_plugin  # noqa: F401
from dyt_wav2vec import fairseq_api

# fairseq's fine-tuning checkpoints contain a Dictionary, which torch.load rejects by default.
torch.serialization.add_safe_globals([fairseq_api.Dictionary])
USER_DIR = Path(__file__).with_name("fairseq_user_dir")

if __name__ == "__main__":
    from fairseq_cli.hydra_train import cli_main

    cli_main()
