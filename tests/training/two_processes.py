"""What each of two processes does for test_processes.py; started with torchrun's variables.

python two_processes.py FOLDER RUN...
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from problem import CONFIG, DYT, Cut, CutAt, context, learner

from matched.training import fit
from matched.training.distributed import process_group

RANK = int(os.environ["RANK"])


def train(directory, signature, linger=0.0, **changes):
    where = context(directory, signature=signature, rank=RANK, local_rank=RANK, world=2)
    with process_group(where) as device:
        fit(where, CONFIG, learner(**changes), device)
        if RANK == 0:
            time.sleep(linger)  # as if writing the last checkpoint took long


# Folders of their own show who writes; a cut run has one that both see.
RUNS = {
    "own": lambda folder: train(folder / f"own-{RANK}", "own"),
    "dyt": lambda folder: train(folder / f"dyt-{RANK}", "dyt", norm=DYT),
    # One micro-batch a step: in step 8, after the checkpoint of step 5.
    "cut": lambda folder: train(folder / "cut", "cut", loss=CutAt(3)),
    "resumed": lambda folder: train(folder / "cut", "cut", weights=99),
    "early": lambda folder: train(folder / f"early-{RANK}", "early", linger=0.5),
    "late": lambda folder: train(folder / f"late-{RANK}", "late", weights=99),
}

if __name__ == "__main__":
    for run in sys.argv[2:]:
        with suppress(Cut):
            RUNS[run](Path(sys.argv[1]))
