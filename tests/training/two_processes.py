"""What each of two processes does for test_processes.py; started with torchrun's variables.

python two_processes.py FOLDER
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from problem import CONFIG, DYT, Cut, CutAt, context, learner

from matched.training import fit
from matched.training.distributed import process_group

RANK = int(os.environ["RANK"])


def train(directory, config=CONFIG, **changes):
    where = context(directory, rank=RANK, local_rank=RANK, world=2)
    with process_group(where) as device:
        return fit(where, config, learner(config, **changes), device)


def main(folder):
    # Folders of their own show who writes; a cut run needs one that both see.
    train(folder / f"own-{RANK}")
    train(folder / f"dyt-{RANK}", replace(CONFIG, epochs=2), norm=DYT)
    try:
        # One micro-batch a step: in step 8, after the checkpoint of step 5.
        train(folder / "cut", loss=CutAt(3))
    except Cut:
        train(folder / "cut", weights=99)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
