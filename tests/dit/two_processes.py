"""Training and sampling in two processes, started by test_two_processes.py.

python two_processes.py LATENTS FOLDER
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from dit.tiny import DYT, SAMPLING, TRAINING, sampled, trained

RANK = int(os.environ["RANK"])
WHERE = {"rank": RANK, "local_rank": RANK, "world_size": 2}

if __name__ == "__main__":
    torch.set_num_threads(1)
    latents, folder = map(Path, sys.argv[1:])
    config = replace(TRAINING, norm=DYT, zero_init=False)
    trained(folder / "trained", config, latents, **WHERE)
    trained(folder / "sharded", config, latents, shard=True, **WHERE)
    sampled(folder / "samples", replace(SAMPLING, norm=DYT), folder / "trained", **WHERE)
    sys.stdout.flush()
    os._exit(0)
