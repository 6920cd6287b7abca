"""What each of two processes does for test_scoring.py, which starts it.

python two_processes_scoring.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from dit.sets import classifier, measured, scored

RANK = int(os.environ["RANK"])
WHERE = {"rank": RANK, "local_rank": RANK, "world": 2}

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    learnt, real = folder / "classifier", folder / "reference"
    classifier(learnt, **WHERE)
    measured(real, learnt, **WHERE)
    scored(folder / "score", samples=folder / "samples", classifier=learnt, reference=real, **WHERE)
    sys.stdout.flush()
    os._exit(0)
