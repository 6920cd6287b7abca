"""Diffusion transformers: latents, training, sampling, FID; this package itself imports nothing."""
