"""Looks at the speech once for all runs, after making it where it is synthetic."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from dyt_wav2vec import manifests, speech
from dyt_wav2vec.config import Preparation
from dyt_wav2vec.manifests import RATE, Manifest
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group

log = logging.getLogger("matched")
SYNTHESISED = "speech"
"""Folder of synthetic speech in the run's directory."""
LISTS = "lists"
"""Folder of train.tsv and valid.tsv in the run's directory."""
GLANCES = 1000
"""Files that a pretraining looks at again when it begins: some seconds, at most."""


def prepare(context: Context, config: Preparation) -> Outcome:
    """Look at every file and leave the lists of those that can be used.

    Raises:
        ValueError: for files that cannot be used; see ``manifests``.
    """
    with process_group(context):
        manifest = on_rank0(lambda: _prepared(context, config))
    hours = {name: sum(getattr(manifest, name).values()) / RATE / 3600 for name in manifests.NAMES}
    log.info("%.2f hours for training, %.2f for validation", hours["train"], hours["valid"])
    files = {f"{name}_files": len(getattr(manifest, name)) for name in manifests.NAMES}
    return Outcome(
        metrics={f"{name}_hours": value for name, value in hours.items()},
        steps=sum(files.values()),
        details={**files, "checksum": manifest.checksum},
    )


def _prepared(context: Context, config: Preparation) -> Manifest:
    seed = config.shuffle_seed
    if config.data == "librispeech":
        manifest = manifests.of_librispeech(context.data[config.data], seed=seed, context=context)
    elif config.data == "speech-folder":
        manifest = manifests.of_folder(context.data[config.data], seed=seed, context=context)
    else:
        folder = context.directory / SYNTHESISED
        parts = {"train": config.train, "valid": config.valid, "voices": config.voices}
        speech.write(folder, speech.Corpus(seed=seed, **parts))
        manifest = manifests.of_parts(folder, context=context)
    manifests.write(manifest, context.owned_path(LISTS))
    return manifest


def _lists(directory: Path) -> Manifest:
    """
    Raises:
        ValueError: if the lists are not as they were written.
    """
    try:
        return manifests.read(directory / LISTS)
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}; delete {directory} and submit again") from None


def prepared(directory: Path, source: str, path: Path | None, context: Context) -> Manifest:
    """What a preparation has left, with the root where the data lies now; some files are opened.

    For one process of a run.

    Args:
        directory: of the preparation's run.
        source: name of the data source.
        path: where site.toml says that it lies; None for synthetic speech.

    Raises:
        ValueError: if files were moved or replaced since, or the lists are damaged.
    """
    root = directory / SYNTHESISED if path is None else path
    if source == "librispeech":
        root = root / manifests.INSIDE
    manifest = replace(_lists(directory), root=root.resolve())
    try:
        manifests.verify(manifest, most=GLANCES, context=context)
    except ValueError as error:
        raise ValueError(
            f"{error}: put them back, or name in site.toml where they are. If they were changed on "
            f"purpose, delete {directory} and submit again, which looks at them anew"
        ) from None
    return manifest
