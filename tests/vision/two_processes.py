"""Script of each of the two processes that test_two_processes.py starts.

python two_processes.py IMAGES FOLDER
"""

import os
import sys
from pathlib import Path

import torch

from dyt_vision import dino, mae, probing
from matched.task import Context

sys.path.insert(0, str(Path(__file__).parents[1]))
from vision.tiny import TINY_DINO, TINY_MAE, TINY_PROBING

RANK = int(os.environ["RANK"])


def run(task, name, config, **where):
    (folder / name).mkdir(exist_ok=True)
    usual = {"rank": RANK, "local_rank": RANK, "world_size": 2, "data": {"imagenet": images}}
    task(Context(directory=folder / name, signature=name, **usual, **where), config)


if __name__ == "__main__":
    torch.set_num_threads(1)
    images, folder = map(Path, sys.argv[1:])
    run(mae.pretrain, "mae", TINY_MAE)
    run(dino.pretrain, "dino", TINY_DINO)
    run(probing.train, "probing", TINY_PROBING, needs={"pretrained": folder / "dino"})
    sys.stdout.flush()
    os._exit(0)
