"""Preparation of the speech: a task that checks every file and writes fairseq's manifests."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from dyt_wav2vec import manifests, synthetic_speech
from dyt_wav2vec.config import Preparation
from dyt_wav2vec.manifests import Manifest
from dyt_wav2vec.sources import ARCHIVE_FOLDER, SAMPLE_RATE
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group

log = logging.getLogger("matched")
CORPUS_FOLDER = "speech"
"""Folder of the synthetic speech in the run directory."""
MANIFEST_FOLDER = "lists"
"""Folder of train.tsv and valid.tsv in the run directory."""
FILES_TO_VERIFY = 1000
"""Files that a pretraining checks again when it starts; takes some seconds at most."""


def prepare(context: Context, config: Preparation) -> Outcome:
    """Check every file and write the manifests of the usable ones.

    Raises:
        ValueError: if files cannot be used; see ``manifests``.
    """
    with process_group(context):
        manifest = on_rank0(lambda: _make_manifest(context, config))
    splits = {split: getattr(manifest, split) for split in manifests.SPLITS}
    hours = {split: sum(files.values()) / SAMPLE_RATE / 3600 for split, files in splits.items()}
    log.info("%.2f hours for training, %.2f for validation", hours["train"], hours["valid"])
    counts = {f"{split}_files": len(files) for split, files in splits.items()}
    return Outcome(
        metrics={f"{split}_hours": value for split, value in hours.items()},
        steps=sum(counts.values()),
        details={**counts, "checksum": manifest.checksum},
    )


def _make_manifest(context: Context, config: Preparation) -> Manifest:
    seed = config.shuffle_seed
    if config.data == "librispeech":
        manifest = manifests.from_librispeech(context.data[config.data], seed=seed, context=context)
    elif config.data == "speech-folder":
        manifest = manifests.from_folder(context.data[config.data], seed=seed, context=context)
    else:
        folder = context.directory / CORPUS_FOLDER
        sizes = {"train": config.train, "valid": config.valid, "voices": config.voices}
        synthetic_speech.write_corpus(folder, synthetic_speech.Corpus(seed=seed, **sizes))
        manifest = manifests.from_split_folder(folder, context=context)
    manifests.write(manifest, context.owned_path(MANIFEST_FOLDER))
    return manifest


def _read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a preparation's run directory.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        return manifests.read(directory / MANIFEST_FOLDER)
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}; delete {directory} and submit again") from None


def load_manifest(directory: Path, source: str, path: Path | None, context: Context) -> Manifest:
    """Read a preparation's manifest, set its root to the data's current path and check some files.

    Called by a single process of a run.

    Args:
        directory: the preparation's run directory.
        source: name of the data source.
        path: path of the source in site.toml; None for synthetic speech.
        context: context of the pretraining.

    Raises:
        ValueError: if files were moved or replaced since, or the manifest is damaged.
    """
    root = directory / CORPUS_FOLDER if path is None else path
    if source == "librispeech":
        root = root / ARCHIVE_FOLDER
    manifest = replace(_read_manifest(directory), root=root.resolve())
    try:
        manifests.verify(manifest, max_files=FILES_TO_VERIFY, context=context)
    except ValueError as error:
        raise ValueError(
            f"{error}: restore them, or set their folder in site.toml. If they were changed on "
            f"purpose, delete {directory} and submit again to check all files"
        ) from None
    return manifest
