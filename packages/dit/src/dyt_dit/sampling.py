"""Samples the set of images that scores a diffusion transformer, spread over all processes.

Which images come out depends on the seed alone: each draws its noise for its own place in the set,
and those that are computed together always are.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyt_dit import image_sets, official
from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.config import Sampling
from dyt_dit.diffusion import Diffusion, Predictor, guided, sample
from dyt_dit.model import DiffusionTransformer, replace_norms
from dyt_dit.training import LEFT, WEIGHTS
from matched.files import DamagedFileError, read_json
from matched.task import Context, Outcome
from matched.training.artifacts import has_diverged, load_artifact
from matched.training.distributed import on_rank0, process_group
from matched.training.file_tasks import digest, make_files, verified_checksums
from matched.training.fingerprint import batch_digest
from matched.training.seeding import generator

log = logging.getLogger("matched")
SAMPLES = "samples.npz"
"""The whole set, in the layout that ADM's evaluation suite reads."""
MADE_OF = "samples.json"
"""Tells the weights that sampled what is there."""


def generate(context: Context, config: Sampling) -> Outcome:
    """Sample the images of the run, from the averaged weights of the training that it needs.

    Raises:
        ValueError: if the weights are another network's, or the autoencoder is not that of the
            latents.
    """
    trained = context.needs["trained"]
    if has_diverged(trained):
        why = {"reason": "the training diverged"}
        return Outcome(metrics={}, diverged=True, steps=0, details=why)
    with process_group(context) as device:
        directory, shards = context.directory, context.directory / "shards"
        names = [f"{i:06d}.npy" for i in range(-(-config.count // config.batch))]
        labels = classes(config)
        on_rank0(lambda: _forget_what_is_stale(context, trained))
        if verified_checksums(context, directory, [SAMPLES])[SAMPLES] is None:
            make_files(context, shards, names, Sampler(context, config, trained, labels, device))
            make_files(context, directory, [SAMPLES], Together(config, labels, shards, names))
        on_rank0(lambda: shutil.rmtree(shards, ignore_errors=True))
        noise = torch.stack(
            [first_noise(config, i) for i in range(min(config.count, config.batch))]
        )
        # What a pair has in common here: classes and first noise.
        batches = [batch_digest([labels, noise])]
        on_rank0(lambda: context.write_fingerprint(weights="none", batches=batches))
        return Outcome(metrics={"images": config.count}, steps=len(names))


def _forget_what_is_stale(context: Context, trained: Path) -> None:
    """Delete images of other weights: of a training that was begun anew since."""
    file = trained / WEIGHTS
    made_of = {"weights": digest(file) if file.is_file() else "lost"}
    if _note(context.directory) == made_of:
        return
    if any((context.directory / name).exists() for name in ("shards", SAMPLES)):
        log.warning("the images that are there are of other weights, and are sampled anew")
    shutil.rmtree(context.owned_path("shards"), ignore_errors=True)
    context.owned_path(SAMPLES).unlink(missing_ok=True)
    context.write_json(MADE_OF, made_of)


def _note(directory: Path) -> dict[str, str] | None:
    try:
        return read_json(directory / MADE_OF)
    except DamagedFileError:
        return None


def classes(config: Sampling) -> Tensor:
    """The class of every image of the set, (count,), drawn at random."""
    source = generator(config.seed, "classes")
    return torch.randint(config.network.classes, (config.count,), generator=source)


def source_of(config: Sampling, place: int) -> torch.Generator:
    """What an image draws all its noise from."""
    return generator(config.seed, "image", place)


def first_noise(config: Sampling, place: int) -> Tensor:
    return torch.randn(_shape(config), generator=source_of(config, place))


def _shape(config: Sampling) -> tuple[int, int, int]:
    network = config.network
    return network.channels, network.input_size, network.input_size


class Sampler:
    """Writes one file of images: uint8 (n, H, W, 3)."""

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
        model = load(config, trained, self.autoencoder.checksum).to(device).eval()
        self.model: Predictor = model
        if config.cfg_scale > 1:
            self.model = guided(model, config.cfg_scale, config.network.classes)
        self.scheduler = Diffusion(config.diffusion_steps).scheduler(config.steps)
        torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = config.precision == "tf32"

    def __call__(self, name: str, path: Path) -> None:
        config = self.config
        start = int(name.removesuffix(".npy")) * config.batch
        places = range(start, min(start + config.batch, config.count))
        latents = sample(
            self.model,
            self.scheduler,
            self.labels[list(places)].to(self.device),
            _shape(config),
            [source_of(config, place) for place in places],
        )
        images = self.autoencoder.decode(latents).permute(0, 2, 3, 1).cpu().numpy()
        with path.open("wb") as file:
            np.save(file, images)


class Together:
    """Writes all images of the set, in order, into one file."""

    def __init__(self, config: Sampling, labels: Tensor, shards: Path, names: list[str]) -> None:
        self.config, self.labels, self.shards, self.names = config, labels, shards, names

    def __call__(self, name: str, path: Path) -> None:
        first = np.load(self.shards / self.names[0], mmap_mode="r")
        shape = (self.config.count, *first.shape[1:])
        image_sets.write(path, shape, self._parts(), labels=self.labels.numpy())

    def _parts(self) -> Iterator[np.ndarray]:
        for name in self.names:
            yield np.load(self.shards / name)


def load(config: Sampling, trained: Path, autoencoder: str) -> DiffusionTransformer:
    """The network that a training run has left, with its averaged weights.

    Args:
        trained: directory of the run.
        autoencoder: checksum of the one that will decode.

    Raises:
        ValueError: if the weights are damaged, another network's, or of other latents, or have
            learned another diffusion.
    """
    file = trained / WEIGHTS
    try:
        content = load_artifact(file)
        if lacking := [key for key in LEFT if key not in content]:
            raise ValueError(f"{file} lacks {', '.join(lacking)}")
    except ValueError as error:
        raise ValueError(
            f"{error}. The training has ended: delete {trained / 'result.json'} and submit again, "
            "and it writes the file anew from its last checkpoint"
        ) from error
    if content["network"] != asdict(config.network):
        raise ValueError(f"{file} is of {content['network']}, not of {config.network}")
    if content["diffusion_steps"] != config.diffusion_steps:
        raise ValueError(
            f"{file} has learned a diffusion of {content['diffusion_steps']} steps, not of "
            f"{config.diffusion_steps} (diffusion_steps)"
        )
    if content["autoencoder"] != autoencoder:
        raise ValueError(
            f"{file} was trained on latents of the autoencoder {content['autoencoder']}, and "
            f"`sd-vae` in site.toml is {autoencoder}: name the one that made the latents"
        )
    model = DiffusionTransformer(config.network)
    replace_norms(model, config.norm)
    official.load_all(model, content["ema"], str(file))
    return model
