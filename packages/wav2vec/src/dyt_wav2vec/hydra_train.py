"""fairseq's own command, which Python 3.11 and later cannot start, with our model and task known.

    python -m dyt_wav2vec.hydra_train --config-dir … --config-name … task.data=…

takes what ``fairseq-hydra-train`` takes. To fine-tune a checkpoint of ours, give its path as
``model.w2v_path``. Where fairseq's command can be started, ``common.user_dir`` is the folder that
this prints:

    python -c "from dyt_wav2vec.hydra_train import PLUGIN; print(PLUGIN)"
"""

from __future__ import annotations

from pathlib import Path

# Here and not below: a process that fairseq spawns for another GPU imports this module first.
import dyt_wav2vec.registration  # noqa: F401

PLUGIN = Path(__file__).with_name("fairseq_plugin")

if __name__ == "__main__":
    from fairseq_cli.hydra_train import cli_main

    cli_main()
