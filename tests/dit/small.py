"""A few real files and a random autoencoder, encoded in a blink."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from dyt_dit.config import Encoding, Network
from dyt_dit.latent_cache import Manifest
from dyt_dit.latents import encode
from matched.task import Context

ENCODING = Encoding(data=("imagenet", "sd-vae"), image_size=16, batch=3, shard=4)
PIXELS = replace(ENCODING, data=("imagenet",), autoencoder="pixels")
CONFIGS = {"kl": ENCODING, "pixels": PIXELS}
NETWORK = Network(input_size=8, classes=2, patch_size=2, width=8, depth=1, heads=2)
TRAIN, HELD_OUT = 14, 5


def autoencoder(folder, seed=0):
    """Weights of an AutoencoderKL that halves images once, as ``save_pretrained`` writes them."""
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
    """PNG and JPEG files of several sizes, laid out as ImageNet is: 14 to train on, 5 held out."""
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
    """Outcome of ``encode`` in a run's directory."""
    directory.mkdir(exist_ok=True)  # by two processes at once
    data = {"imagenet": images, "sd-vae": vae}
    return encode(Context(directory=directory, signature="x", data=data, **where), config)


def contents(directory):
    """Name → bytes of all that a run has left, but for the times in progress.json."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "progress.json"
    }


def stored(directory, split):
    """float32 (images, flips, 2, C, H, W), of all files of a split."""
    files = Manifest.read(directory).parts[split].files
    arrays = [np.load(directory / "latents" / file.name, mmap_mode="r") for file in files]
    assert all(array.dtype == np.float16 for array in arrays)
    return torch.from_numpy(np.concatenate(arrays).astype(np.float32))
