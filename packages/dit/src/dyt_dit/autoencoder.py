"""Autoencoders between images and latents: the VAE (diffusers' AutoencoderKL), or scaled pixels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from einops import repeat
from torch import Tensor

from dyt_dit.config import Autoencoder as Kind
from dyt_dit.sources import vae_weights
from matched.training.file_tasks import digest

EXPECTED = (
    "expected a folder written by save_pretrained of diffusers' AutoencoderKL, such as a copy of "
    "stabilityai/sd-vae-ft-ema"
)


class Autoencoder(Protocol):
    """Interface of the autoencoders.

    Attributes:
        kind: "kl" or "pixels".
        checksum: SHA-256 of the weights; identifies the latents made with them.
        scaling: factor that gives latents about unit variance.
    """

    kind: Kind
    checksum: str
    scaling: float

    def shape(self, image_size: int) -> tuple[int, int]:
        """Return (channels, height = width) of the latents of an image.

        Raises:
            ValueError: if the image size is not a multiple of the downsampling factor.
        """
        ...

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images, uint8 (B, 3, H, W).

        Returns:
            Mean and standard deviation of the posterior, (B, C, h, w) each, unscaled.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (B, C, h, w) to images, uint8 (B, 3, H, W)."""
        ...


def open_autoencoder(kind: Kind, folder: Path | None, device: torch.device) -> Autoencoder:
    """Open the autoencoder of a config.

    Args:
        folder: the data source "sd-vae"; None for pixels.

    Raises:
        ValueError: if the folder has no AutoencoderKL, or a damaged one.
    """
    if kind == "pixels":
        return PixelAutoencoder(device)
    assert kind == "kl", "the config has checked it"
    if folder is None:
        raise ValueError(
            'the autoencoder "kl" needs the source "sd-vae"; add that to the run\'s data'
        )
    return KLAutoencoder(folder, device)


class KLAutoencoder:
    """The VAE: diffusers' AutoencoderKL with the weights in a folder, in fp32."""

    kind: Kind = "kl"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.checksum = weights_checksum(folder)
        self.folder, self.device = folder, device
        self.vae = _load(folder).to(device).eval().requires_grad_(False)
        self.scaling = float(self.vae.config.scaling_factor)

    def shape(self, image_size: int) -> tuple[int, int]:
        halvings = len(self.vae.config.block_out_channels) - 1
        side, remainder = divmod(image_size, 2**halvings)
        if remainder:
            raise ValueError(
                f"image_size {image_size} is not a multiple of {2**halvings}, as the autoencoder "
                f"in {self.folder} needs"
            )
        return self.vae.config.latent_channels, side

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(_to_unit_range(images.to(self.device))).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.device, torch.float32)
        return _to_uint8(self.vae.decode(latents / self.scaling).sample)


class PixelAutoencoder:
    """Pixels as latents: one gray channel from -1 to 1 with standard deviation 0, for digits."""

    kind: Kind = "pixels"
    checksum = "pixels"
    scaling = 1.0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def shape(self, image_size: int) -> tuple[int, int]:
        return 1, image_size

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        gray = images.to(self.device, torch.float32).mean(1, keepdim=True)
        mean = _to_unit_range(gray)
        return mean, torch.zeros_like(mean)

    def decode(self, latents: Tensor) -> Tensor:
        gray = _to_uint8(latents.to(self.device, torch.float32))
        return repeat(gray, "b 1 h w -> b rgb h w", rgb=3)


def weights_checksum(folder: Path) -> str:
    """Return the SHA-256 of an AutoencoderKL's weights file, which is read once per process.

    Raises:
        ValueError: if there is no such file.
    """
    file = vae_weights(folder)
    if file is None:
        raise ValueError(f"{folder} has no autoencoder weights; {EXPECTED}")
    stat = file.stat()
    return _checksum(file, stat.st_size, stat.st_mtime_ns)


@cache
def _checksum(file: Path, size: int, modified: int) -> str:
    return digest(file)


def _load(folder: Path) -> Any:  # diffusers annotates neither its configs nor its methods
    from diffusers import AutoencoderKL  # takes seconds, and runs on pixels do not need it

    try:
        vae, loading_info = AutoencoderKL.from_pretrained(
            folder,
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers, safetensors, pickle and json raise many types
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{folder} cannot be loaded as an autoencoder ({reason}); {EXPECTED}"
        ) from None
    # Diffusers initializes missing weights at random and ignores unexpected ones.
    if wrong := loading_info["missing_keys"] + loading_info["unexpected_keys"]:
        raise ValueError(
            f"{folder} has weights that do not match its config.json ({len(wrong)} names differ, "
            f"such as {wrong[0]}); {EXPECTED}"
        )
    return vae


def _to_unit_range(images: Tensor) -> Tensor:
    """Scale values from [0, 255] to [-1, 1]."""
    return images.float() / 127.5 - 1


def _to_uint8(images: Tensor) -> Tensor:
    """Scale values from [-1, 1] to [0, 255], truncated and not rounded, as DiT's samplers do."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
