"""What each of two processes does for the tests of divided pretraining, which start it.

python two_processes_speech.py SPEECH FOLDER
"""

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from problem import DIVIDED, FILLED, ask, before_update, poisoned, pretrained

from dyt_wav2vec.evaluation import evaluate
from matched.signals import Interrupted, watch_signals

RANK = int(os.environ["RANK"])


def run(speech, directory, config=DIVIDED, **where):
    """Pretrain; said/NAME-RANK.txt gets the log, and how it ended if it did not end well."""
    name = directory.name
    said = directory.parent / "said"
    said.mkdir(exist_ok=True)
    handler = logging.FileHandler(said / f"{name}-{RANK}.txt")
    log = logging.getLogger("matched")
    log.addHandler(handler)
    try:
        with watch_signals(600, print):
            # Processes meet under the signature of a run.
            where = {"signature": name, "rank": RANK, "local_rank": RANK, "world_size": 2, **where}
            pretrained(directory, speech, config, **where)
    except (Interrupted, OSError, RuntimeError, ValueError) as error:
        log.info("ended by %s: %s", type(error).__name__, error)
    finally:
        log.removeHandler(handler)


def validate(trainer, _):
    """said/validated-RANK.txt gets what the network that has learned nothing is worth."""
    said = Path(trainer.cfg.task.data).parents[1] / "said" / f"validated-{RANK}.txt"
    said.write_text(json.dumps(evaluate(trainer, 3)))


def ask_one(*_):
    if RANK == 1:
        ask()


def poison_one(trainer, samples):
    if RANK == 1:
        poisoned(trainer, samples)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("matched").setLevel("INFO")
    speech, folder = map(Path, sys.argv[1:])
    with before_update(0, validate):
        run(speech, folder / "whole")
    run(speech, folder / "loaded", num_workers=1)
    run(speech, folder / "filled", FILLED)
    with before_update(1, ask_one):
        run(speech, folder / "asked", checkpoint_steps=99)
    run(speech, folder / "from-one")
    with before_update(5, poison_one):
        run(speech, folder / "poisoned")
    run(speech, folder / "undivided", replace(DIVIDED, shards=3))
    sys.stdout.flush()
    os._exit(0)
