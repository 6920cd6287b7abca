"""Encoding and cache verification in two processes, started by test_latents.py.

python two_processes_latents.py IMAGES VAE FOLDER KIND
"""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dyt_dit.latent_cache import open_cache
from matched.task import Context
from matched.training.distributed import on_rank0, process_group

sys.path.insert(0, str(Path(__file__).parents[1]))
from dit.small import CONFIGS, NETWORK, encoded

RANK = int(os.environ["RANK"])
WHERE = {"rank": RANK, "local_rank": RANK, "world_size": 2}
NETWORKS = {"kl": NETWORK, "pixels": replace(NETWORK, channels=1, input_size=16)}


def damaged(folder):
    """Make a copy whose second file, which the second process verifies, is damaged."""
    copy = folder / "damaged"
    shutil.copytree(folder / "two", copy)
    (copy / "latents" / "train-00001.npy").write_bytes(b"")


def opened(context, vae, network):
    """Yield the result of ``open_cache`` in this process for a valid and for a damaged cache."""
    with process_group(context):
        on_rank0(lambda: damaged(folder))
        for directory in (folder / "two", folder / "damaged"):
            try:
                open_cache(context, directory, autoencoder_folder=vae, network=network, flip=0.5)
                yield "whole"
            except ValueError as error:
                yield str(error)


if __name__ == "__main__":
    torch.set_num_threads(1)
    images, vae, folder = map(Path, sys.argv[1:4])
    kind = sys.argv[4]
    encoded(folder / "two", images, vae, CONFIGS[kind], **WHERE)
    context = Context(directory=folder / "two", signature="y", **WHERE)
    messages = opened(context, vae, NETWORKS[kind])
    (folder / f"messages-{RANK}.txt").write_text("\n".join(messages))
    sys.stdout.flush()
    os._exit(0)
