"""Data sources of the diffusion runs: weights and statistics from site.toml; imports no torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

from matched import DataSource
from matched.data_files import refuse_pointer

VAE_CONFIG = "config.json"
VAE_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
REFERENCE_ARRAYS = ("arr_0", "mu", "sigma", "mu_s", "sigma_s")


def vae_weights(folder: Path) -> Path | None:
    """Return the weights file in a folder written by diffusers' ``save_pretrained``, or None."""
    return next((folder / name for name in VAE_WEIGHTS if (folder / name).is_file()), None)


def _check_vae(path: Path) -> None:
    refuse_pointer(path / VAE_CONFIG)
    if not (path / VAE_CONFIG).is_file():
        raise ValueError(
            f"{path} has no {VAE_CONFIG}; expected the folder of diffusers' AutoencoderKL, such as "
            "a copy of stabilityai/sd-vae-ft-ema"
        )
    weights = vae_weights(path)
    # Of two files only the one that is loaded matters; a link without a target is not found as one.
    for file in [weights] if weights else [path / name for name in VAE_WEIGHTS]:
        refuse_pointer(file)
    if weights is None:
        raise ValueError(f"{path} has no weights; expected {' or '.join(VAE_WEIGHTS)} in it")


def _check_inception(path: Path) -> None:
    refuse_pointer(path)
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; expected the weights of torch-fidelity's Inception v3, "
            "weights-inception-2015-12-05-6726825d.pth"
        )


def _check_reference(path: Path) -> None:
    refuse_pointer(path)
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; expected ADM's reference batch of ImageNet at 256 × 256, "
            "VIRTUAL_imagenet256_labeled.npz"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a whole .npz file; copy it again")
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if missing := [name for name in REFERENCE_ARRAYS if name not in names]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; expected ADM's reference batch of ImageNet with "
            "images and statistics, VIRTUAL_imagenet256_labeled.npz"
        )


def _check_weights(path: Path) -> None:
    refuse_pointer(path)
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; expected the weights of DiT-XL/2, DiT-XL-2-256x256.pt"
        )


DIT_XL2_WEIGHTS = DataSource(title="released weights of DiT-XL/2", check=_check_weights)
SD_VAE = DataSource(title="Stable Diffusion's autoencoder (ft-EMA)", check=_check_vae)
INCEPTION = DataSource(title="Inception v3 (2015)", check=_check_inception)
IMAGENET_REFERENCE = DataSource(title="ADM's ImageNet reference batch", check=_check_reference)
