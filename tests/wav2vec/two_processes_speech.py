"""Program of each process in the tests of pretraining with two processes.

python two_processes_speech.py SPEECH FOLDER
"""

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from problem import NO_LAYERDROP, UNEVEN, before_update, pretrained, request_stop, set_weight_to_nan

from dyt_wav2vec.evaluation import evaluate
from matched.signals import Interrupted, watch_signals

RANK = int(os.environ["RANK"])


def run(speech, directory, config=NO_LAYERDROP, **where):
    """Pretrain, and write the log and the error, if any, to logs/NAME-RANK.txt."""
    name = directory.name
    logs = directory.parent / "logs"
    logs.mkdir(exist_ok=True)
    handler = logging.FileHandler(logs / f"{name}-{RANK}.txt")
    log = logging.getLogger("matched")
    log.addHandler(handler)
    try:
        with watch_signals(600, print):
            # The rendezvous of the processes uses the run's signature.
            where = {"signature": name, "rank": RANK, "local_rank": RANK, "world_size": 2, **where}
            pretrained(directory, speech, config, **where)
    except (Interrupted, OSError, RuntimeError, ValueError) as error:
        log.info("ended by %s: %s", type(error).__name__, error)
    finally:
        log.removeHandler(handler)


def validate(trainer, _):
    """Write the evaluation of the untrained network to logs/evaluation-RANK.txt."""
    path = Path(trainer.cfg.task.data).parents[1] / "logs" / f"evaluation-{RANK}.txt"
    path.write_text(json.dumps(evaluate(trainer, 3)))


def request_stop_on_rank_1(*_):
    if RANK == 1:
        request_stop()


def set_nan_on_rank_1(trainer, samples):
    if RANK == 1:
        set_weight_to_nan(trainer, samples)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("matched").setLevel("INFO")
    speech, folder = map(Path, sys.argv[1:])
    with before_update(0, validate):
        run(speech, folder / "validated")
    run(speech, folder / "loaded", num_workers=1)
    run(speech, folder / "filled", UNEVEN)
    with before_update(1, request_stop_on_rank_1):
        run(speech, folder / "asked", checkpoint_steps=99)
    run(speech, folder / "from-one")
    with before_update(5, set_nan_on_rank_1):
        run(speech, folder / "poisoned")
    run(speech, folder / "undivided", replace(NO_LAYERDROP, micro_batches_per_update=3))
    sys.stdout.flush()
    os._exit(0)
