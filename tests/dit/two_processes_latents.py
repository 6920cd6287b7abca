"""What each of two processes does for test_latents.py, which starts it.

python two_processes_latents.py IMAGES VAE DIRECTORY
"""

import os
import sys
from pathlib import Path

import torch

from dyt_dit.latent_cache import open_cache
from matched.training.distributed import process_group
from matched.worker import Context

sys.path.insert(0, str(Path(__file__).parents[1]))
from dit.small import NETWORK, encoded

RANK = int(os.environ["RANK"])
WHERE = {"rank": RANK, "local_rank": RANK, "world": 2}


def opened(context, directory, vae):
    """What ``open_cache`` says to this process."""
    try:
        with process_group(context):
            open_cache(context, directory, autoencoder_folder=vae, network=NETWORK, flip=0.5)
    except ValueError as error:
        return str(error)
    return "whole"


if __name__ == "__main__":
    torch.set_num_threads(1)
    images, vae, directory = map(Path, sys.argv[1:])
    encoded(directory, images, vae, **WHERE)
    said = []
    for round in ("whole", "damaged"):
        if round == "damaged" and RANK == 0:
            # Which the second process reads; another manifest is not taken for the verified one.
            (directory / "latents" / "train-00001.npy").write_bytes(b"")
            manifest = directory / "latents" / "manifest.json"
            manifest.write_text(manifest.read_text() + "\n")
        context = Context(directory=directory, signature=round, **WHERE)
        said.append(opened(context, directory, vae))
    directory.with_name(f"said-{RANK}.txt").write_text("\n".join(said))
    sys.stdout.flush()
    os._exit(0)
