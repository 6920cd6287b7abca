"""A small random autoencoder in place of the one that DiT's script downloads."""

from __future__ import annotations

from typing import Any

from diffusers.models import AutoencoderKL


def from_pretrained(cls: type[AutoencoderKL], *args: Any, **options: Any) -> AutoencoderKL:
    """Return an autoencoder with the input and latent sizes of Stable Diffusion's."""
    return cls(
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


AutoencoderKL.from_pretrained = classmethod(from_pretrained)
