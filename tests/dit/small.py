"""Fast encodings of a few image files with a small random autoencoder."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from dyt_dit.config import Encoding, Network
from dyt_dit.latent_cache import Manifest
from dyt_dit.latents import encode
from matched.task import Context

ENCODING = Encoding(data=("imagenet", "sd-vae"), image_size=16, batch=3, images_per_file=4)
PIXELS = replace(ENCODING, data=("imagenet",), autoencoder="pixels")
CONFIGS = {"kl": ENCODING, "pixels": PIXELS}
NETWORK = Network(input_size=8, classes=2, patch_size=2, width=8, depth=1, heads=2)
TRAIN, HELD_OUT = 14, 5


def autoencoder(folder, seed=0):
    """Save a random AutoencoderKL that halves images once, with ``save_pretrained``."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    vae.save_pretrained(folder)
    return folder


def pictures(folder):
    """Write PNG and JPEG files of several sizes in ImageNet's layout: 14 training, 5 held out."""
    noise = np.random.default_rng(0)
    for split, counts in (("train", (8, 6)), ("val", (3, 2))):
        for label, count in zip(("n01", "n02"), counts, strict=True):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 255, (40 + 3 * i, 61 - 4 * i, 3), dtype=np.uint8)
                name = f"{i}.JPEG" if i % 2 else f"{i}.png"
                Image.fromarray(pixels).save(folder / split / label / name)
    return folder


def encoded(directory, images, vae, config=ENCODING, **where):
    """Run ``encode`` in a run directory and return its outcome."""
    directory.mkdir(exist_ok=True)  # two processes may do this at once
    data = {"imagenet": images, "sd-vae": vae}
    return encode(Context(directory=directory, signature="x", data=data, **where), config)


def contents(directory):
    """Return name → bytes of all files in a run directory except progress.json, which has times."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "progress.json"
    }


def stored(directory, split):
    """Return the latents of a split from all its files, float32 (images, flips, 2, C, H, W)."""
    files = Manifest.read(directory).splits[split].files
    arrays = [np.load(directory / "latents" / file.name, mmap_mode="r") for file in files]
    assert all(array.dtype == np.float16 for array in arrays)
    return torch.from_numpy(np.concatenate(arrays).astype(np.float32))
