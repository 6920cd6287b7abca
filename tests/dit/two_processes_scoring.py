"""Reference and scoring in two processes, started by test_scoring.py.

python two_processes_scoring.py FOLDER

It imports only the tasks, because imports take most of its time.
"""

import os
import sys
from pathlib import Path

import torch

from dyt_dit.config import DigitsClassifier, Reference, Scoring
from dyt_dit.digits_features import train
from dyt_dit.reference import measure
from dyt_dit.scoring import score
from matched.files import write_json
from matched.task import Context

REFERENCE = Reference(
    data=("digits",), extractor="digits", image_size=8, kept=100, batch=64, images_per_file=500
)
SCORING = Scoring(extractor="digits", batch=50, images_per_file=120)


def run(task, name, config):
    (folder / name).mkdir(exist_ok=True)
    rank = int(os.environ["RANK"])
    needs = {need: folder / need for need in ("samples", "classifier", "reference")}
    where = {"rank": rank, "local_rank": rank, "world_size": 2}
    context = Context(directory=folder / name, signature=name, needs=needs, **where)
    outcome = task(context, config)
    if rank == 0:
        write_json(folder / name / "result.json", {"outcome": "done", "metrics": outcome.metrics})


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    run(train, "classifier", DigitsClassifier())
    run(measure, "reference", REFERENCE)
    run(score, "score", SCORING)
    sys.stdout.flush()
    os._exit(0)
