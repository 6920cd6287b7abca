"""Sampling of the set of images that is scored: the task ``dyt_dit.sampling:generate``.

The work is spread over all processes. The images depend only on the seed: each draws its noise from
a generator for its index in the set, and the same images are always batched together.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from dyt_dit import image_npz, release_weights
from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.config import Sampling
from dyt_dit.diffusion import Diffusion, Predictor, classifier_free_guidance, sample
from dyt_dit.model import DiffusionTransformer, replace_norms
from dyt_dit.training import WEIGHTS, WEIGHTS_KEYS
from matched.files import DamagedFileError, read_json
from matched.task import Context, Outcome
from matched.training.artifacts import TRAINING_DIVERGED, has_diverged, load_artifact
from matched.training.distributed import on_rank0, process_group
from matched.training.file_tasks import (
    digest,
    make_files,
    remove_stale_files,
    verified_checksums,
)
from matched.training.fingerprint import batch_digest
from matched.training.seeding import generator

log = logging.getLogger("matched")
SAMPLES = "samples.npz"
"""The whole set, in the layout that ADM's evaluation suite reads."""
SOURCE = "samples.json"
"""The checksum of the weights that the existing images were sampled with."""
BATCHES = "batches"
"""Folder with one file per batch of images, until they are merged into one file."""


def generate(context: Context, config: Sampling) -> Outcome:
    """Sample the images of the run with the EMA weights of the training that it needs.

    Raises:
        ValueError: if the weights belong to another network, or the autoencoder is not the one
            that made the latents.
    """
    trained = context.needs["trained"]
    if has_diverged(trained):
        return TRAINING_DIVERGED
    with process_group(context) as device:
        directory, batches = context.directory, context.directory / BATCHES
        names = [f"{i:06d}.npy" for i in range(-(-config.count // config.batch))]
        labels = draw_classes(config)
        on_rank0(lambda: _remove_images_of_other_weights(context, trained))
        if verified_checksums(context, directory, [SAMPLES])[SAMPLES] is None:
            sampler = ImageSampler(context, config, trained, labels, device)
            make_files(context, batches, names, sampler)
            make_files(context, directory, [SAMPLES], BatchMerger(config, labels, batches, names))
        on_rank0(lambda: shutil.rmtree(batches, ignore_errors=True))
        noise = torch.stack(
            [initial_noise(config, i) for i in range(min(config.count, config.batch))]
        )
        # A pair must have the classes and the initial noise in common.
        digests = [batch_digest([labels, noise])]
        on_rank0(lambda: context.write_fingerprint(weights="none", batches=digests))
        return Outcome(metrics={"images": config.count}, steps=len(names))


def _remove_images_of_other_weights(context: Context, trained: Path) -> None:
    """Delete images that were sampled before the training was started again."""
    file = trained / WEIGHTS
    source = {"weights": digest(file) if file.is_file() else "lost"}
    if _read_source(context.directory) == source:
        return
    stale = [context.directory / name for name in (BATCHES, SAMPLES)]
    if any(path.exists() for path in stale):
        log.warning("the existing images were sampled with other weights and are sampled again")
    remove_stale_files(context, stale)
    context.write_json(SOURCE, source)


def _read_source(directory: Path) -> dict[str, str] | None:
    try:
        return read_json(directory / SOURCE)
    except DamagedFileError:
        return None


def draw_classes(config: Sampling) -> Tensor:
    """Draw the class of every image of the set, (count,)."""
    source = generator(config.seed, "classes")
    return torch.randint(config.network.classes, (config.count,), generator=source)


def image_generator(config: Sampling, index: int) -> torch.Generator:
    """Return the generator of all noise of an image."""
    return generator(config.seed, "image", index)


def initial_noise(config: Sampling, index: int) -> Tensor:
    """Return the latents (C, h, w) from which the sampling of an image starts."""
    return torch.randn(_latent_shape(config), generator=image_generator(config, index))


def _latent_shape(config: Sampling) -> tuple[int, int, int]:
    network = config.network
    return network.channels, network.input_size, network.input_size


class ImageSampler:
    """Sampler of one batch, written to a file of uint8 (n, H, W, 3)."""

    def __init__(
        self,
        context: Context,
        config: Sampling,
        trained: Path,
        labels: Tensor,
        device: torch.device,
    ) -> None:
        self.config, self.labels, self.device = config, labels, device
        self.autoencoder = open_autoencoder(config.autoencoder, context.data.get("sd-vae"), device)
        model = load_trained(config, trained, self.autoencoder.checksum).to(device).eval()
        self.model: Predictor = model
        if config.cfg_scale > 1:
            no_label = config.network.classes
            self.model = classifier_free_guidance(model, config.cfg_scale, no_label)
        self.scheduler = Diffusion(config.diffusion_steps).scheduler(config.steps)
        torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = config.precision == "tf32"

    def __call__(self, name: str, path: Path) -> None:
        config = self.config
        start = int(name.removesuffix(".npy")) * config.batch
        indices = range(start, min(start + config.batch, config.count))
        latents = sample(
            self.model,
            self.scheduler,
            self.labels[list(indices)].to(self.device),
            _latent_shape(config),
            [image_generator(config, index) for index in indices],
        )
        images = rearrange(self.autoencoder.decode(latents), "b c h w -> b h w c")
        with path.open("wb") as file:
            np.save(file, images.cpu().numpy())


class BatchMerger:
    """Writer of all batches, in order, to the one file of the set."""

    def __init__(self, config: Sampling, labels: Tensor, batches: Path, names: list[str]) -> None:
        self.config, self.labels, self.batches, self.names = config, labels, batches, names

    def __call__(self, name: str, path: Path) -> None:
        first = np.load(self.batches / self.names[0], mmap_mode="r")
        shape = (self.config.count, *first.shape[1:])
        image_npz.write_images(path, shape, self._chunks(), labels=self.labels.numpy())

    def _chunks(self) -> Iterator[np.ndarray]:
        for name in self.names:
            yield np.load(self.batches / name)


def load_trained(config: Sampling, trained: Path, autoencoder: str) -> DiffusionTransformer:
    """Load the network of a training run with its EMA weights.

    Args:
        trained: directory of the run.
        autoencoder: checksum of the autoencoder that decodes.

    Raises:
        ValueError: if the weights are damaged, or were trained with another network, autoencoder
            or number of diffusion steps.
    """
    file = trained / WEIGHTS
    try:
        content = load_artifact(file)
        if missing := [key for key in WEIGHTS_KEYS if key not in content]:
            raise ValueError(f"{file} lacks {', '.join(missing)}")
    except ValueError as error:
        raise ValueError(
            f"{error}. The training is done: delete {trained / 'result.json'} and submit again to "
            "write the file from its last checkpoint"
        ) from error
    if content["network"] != asdict(config.network):
        raise ValueError(
            f"{file} has weights of {content['network']}; expected those of {config.network}"
        )
    if content["diffusion_steps"] != config.diffusion_steps:
        raise ValueError(
            f"{file} was trained with {content['diffusion_steps']} diffusion steps; expected "
            f"{config.diffusion_steps} (diffusion_steps)"
        )
    if content["autoencoder"] != autoencoder:
        raise ValueError(
            f"{file} was trained on latents of the autoencoder {content['autoencoder']}, and "
            f"`sd-vae` in site.toml is {autoencoder}; use the autoencoder that made the latents"
        )
    model = DiffusionTransformer(config.network)
    replace_norms(model, config.norm)
    release_weights.load_state_dict(model, content["ema"], str(file))
    return model
