"""What turns images into what is diffused, and back: an AutoencoderKL, or nothing but scaling."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dyt_dit.config import Autoencoder as Kind
from dyt_dit.sources import vae_weights
from matched.training.file_tasks import digest

EXPECTED = (
    "expected what save_pretrained of diffusers' AutoencoderKL has written, such as a copy of "
    "stabilityai/sd-vae-ft-ema"
)


class Autoencoder(Protocol):
    """Images and latents of an image.

    Attributes:
        kind: "kl" or "pixels".
        checksum: of the weights; tells whose latents they are.
        scaling: factor that gives latents about unit variance.
    """

    kind: Kind
    checksum: str
    scaling: float

    def shape(self, image_size: int) -> tuple[int, int]:
        """Channels, and height and width, of the latents of an image.

        Raises:
            ValueError: for an image size that does not halve evenly.
        """
        ...

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, H, W) → mean and standard deviation of the posterior, (B, C, h, w) each,
        before scaling."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) → uint8 (B, 3, H, W)."""
        ...


def open_autoencoder(kind: Kind, folder: Path | None, device: torch.device) -> Autoencoder:
    """
    Args:
        folder: that of the source "sd-vae"; None for pixels.

    Raises:
        ValueError: if the folder holds no AutoencoderKL, or a damaged one.
    """
    if kind == "pixels":
        return Pixels(device)
    assert kind == "kl", "the config has checked it"
    if folder is None:
        raise ValueError('the autoencoder "kl" is the source "sd-vae"; add that to the run\'s data')
    return KL(folder, device)


class KL:
    """Diffusers' AutoencoderKL with the weights in a folder, in fp32."""

    kind: Kind = "kl"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.checksum = weights_checksum(folder)
        self.folder, self.device = folder, device
        self.vae = _load(folder).to(device).eval().requires_grad_(False)
        self.scaling = float(self.vae.config.scaling_factor)

    def shape(self, image_size: int) -> tuple[int, int]:
        halvings = len(self.vae.config.block_out_channels) - 1
        side, rest = divmod(image_size, 2**halvings)
        if rest:
            raise ValueError(
                f"image_size {image_size} is not a multiple of {2**halvings}, as the autoencoder "
                f"in {self.folder} needs"
            )
        return self.vae.config.latent_channels, side

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(_normalised(images.to(self.device))).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.device, torch.float32)
        return _as_bytes(self.vae.decode(latents / self.scaling).sample)


class Pixels:
    """The picture itself, as one grey channel from -1 to 1, without any noise: for digits."""

    kind: Kind = "pixels"
    checksum = "pixels"
    scaling = 1.0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def shape(self, image_size: int) -> tuple[int, int]:
        return 1, image_size

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        grey = images.to(self.device, torch.float32).mean(1, keepdim=True)
        mean = _normalised(grey)
        return mean, torch.zeros_like(mean)

    def decode(self, latents: Tensor) -> Tensor:
        return _as_bytes(latents.to(self.device, torch.float32)).repeat(1, 3, 1, 1)


def weights_checksum(folder: Path) -> str:
    """SHA-256 of an AutoencoderKL's file of weights, which is read once in a process.

    Raises:
        ValueError: if there is none.
    """
    file = vae_weights(folder)
    if file is None:
        raise ValueError(f"{folder} has no weights of an autoencoder; {EXPECTED}")
    status = file.stat()
    return _checksum(file, status.st_size, status.st_mtime_ns)


@cache
def _checksum(file: Path, size: int, modified: int) -> str:
    return digest(file)


def _load(folder: Path) -> torch.nn.Module:
    from diffusers import AutoencoderKL  # takes seconds, which runs on pixels need not wait

    try:
        vae, found = AutoencoderKL.from_pretrained(
            folder,
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # of diffusers, safetensors, pickle, JSON: whatever is wrong there
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"{folder} cannot be loaded as an autoencoder ({why}); {EXPECTED}"
        ) from None
    # Diffusers would draw what is missing at random, and leave out what it does not know.
    if wrong := found["missing_keys"] + found["unexpected_keys"]:
        raise ValueError(
            f"{folder} does not hold the weights of the autoencoder that its config.json tells of "
            f"({len(wrong)} names differ, such as {wrong[0]}); {EXPECTED}"
        )
    return vae


def _normalised(images: Tensor) -> Tensor:
    """0 to 255 → -1 to 1."""
    return images.float() / 127.5 - 1


def _as_bytes(images: Tensor) -> Tensor:
    """-1 to 1 → 0 to 255, as DiT's samplers write them: not rounded but cut off."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
